"""What comes to a task while an attempt of it runs; a newer version or a stored stop may wait for its end.

How a cell reads is said in ``story.py``.
"""

from __future__ import annotations

from typing import Final

CELLS: Final[dict[str, dict[str, str]]] = {
    "running": {
        "get": "ok; running 1; +5 succeeded, done 1, hook done 1 ok",
        "list": "1 listed; running 1; as ever",
        "schedule the same": "duplicate; running 1; as ever",
        "schedule the same, keep": "duplicate; running 1; as ever",
        "schedule the same, replace":
            "ok; running 2; +0 scheduled 2, +5 succeeded, called 2.1, succeeded, done 2, hook done 2 ok",
        "schedule another": "exists; running 1; as ever",
        "schedule another, keep": "duplicate; running 1; as ever",
        "schedule another, replace":
            "ok; running 2; +0 scheduled 2, "
            "+5 succeeded, called 2.1 at other, succeeded, done 2, hook done 2 ok",
        "cancel": "0 1; running 1; as ever",
        "cancel by group": "0 1; running 1; as ever",
        "cancel another version": "conflict; running 1; as ever",
        "finish": "0 1; running 1; +5 succeeded, done 1, hook done 1 null",
        "finish by group": "0 1; running 1; +5 succeeded, done 1, hook done 1 null",
        "finish with a reply": '0 1; running 1; +5 succeeded, done 1, hook done 1 {"by": "hand"}',
        "reschedule, delay":
            "ok; running 2; +0 rescheduled 2, +5 succeeded, "
            "+30 called 2.1, succeeded, done 2, hook done 2 ok",
        "reschedule, at":
            "ok; running 2; +0 rescheduled 2, +5 succeeded, "
            "+30 called 2.1, succeeded, done 2, hook done 2 ok",
        "reschedule, no time":
            "ok; running 2; +0 rescheduled 2, +5 succeeded, called 2.1, succeeded, done 2, hook done 2 ok",
        "reschedule, another url":
            "ok; running 2; +0 rescheduled 2, "
            "+5 succeeded, called 2.1 at other, succeeded, done 2, hook done 2 ok",
        "reschedule another version": "conflict; running 1; as ever",
        "redrive": "conflict; running 1; as ever",
        "redrive by group": "0; running 1; as ever",
        "redrive by queue": "0; running 1; as ever",
        "pause": "paused; running 1; +5 succeeded, done 1, +60 hook done 1 ok",
        "resume": "not paused; running 1; as ever",
        "due time comes": "; done 1; as ever",
        "attempt succeeds": "; done 1; as ever",
        "attempt fails, retry left":
            "; done 1; +5 failed, +15 called 1.2, succeeded, done 1, hook done 1 ok",
        "attempt fails, none left": "; dead 1; +5 failed, dead 1, hook dead 1 no",
        "attempt is answered 410": "; dead 1; +5 failed, dead 1, hook dead 1 gone",
        "attempt is answered stop": "; dead 1; +5 failed, dead 1, hook dead 1 no",
        "attempt is answered not yet":
            "; done 1; +5 not_yet, +15 called 1.2, succeeded, done 1, hook done 1 ok",
        "attempt times out": "; done 1; +7 failed, +17 called 1.2, succeeded, done 1, hook done 1 ok",
        "expiry comes": "; done 1; as ever",
        "expiry comes, the attempt fails": "; expired 1; +5 failed, expired 1, hook dead 1 no",
        "attempt lapses": "; done 1; +40 called 1.1, succeeded, done 1, hook done 1 ok",
        "attempt lapses, expiry comes": "; expired 1; +5 expired 1, +40 hook dead 1 expired",
        "retention is over": "; unknown; as ever",
        "kill -9 and restart": "; running 1; +0 called 1.1, +5 succeeded, done 1, hook done 1 ok",
        "drain and restart": "; done 1; as ever",
    },
    "running, rescheduled": {
        "get": "ok; running 2; +5 succeeded, +20 called 2.1, succeeded, done 2, hook done 2 ok",
        "list": "1 listed; running 2; as ever",
        "schedule the same": "duplicate; running 2; as ever",
        "schedule the same, keep": "duplicate; running 2; as ever",
        "schedule the same, replace":
            "ok; running 3; +0 scheduled 3, +5 succeeded, called 3.1, succeeded, done 3, hook done 3 ok",
        "schedule another": "exists; running 2; as ever",
        "schedule another, keep": "duplicate; running 2; as ever",
        "schedule another, replace":
            "ok; running 3; +0 scheduled 3, "
            "+5 succeeded, called 3.1 at other, succeeded, done 3, hook done 3 ok",
        "cancel": "0 1; running 2; +5 succeeded, cancelled 2",
        "cancel by group": "0 1; running 2; +5 succeeded, cancelled 2",
        "cancel another version": "conflict; running 2; as ever",
        "finish": "0 1; running 2; +5 succeeded, done 2, hook done 2 null",
        "finish by group": "0 1; running 2; +5 succeeded, done 2, hook done 2 null",
        "finish with a reply": '0 1; running 2; +5 succeeded, done 2, hook done 2 {"by": "hand"}',
        "reschedule, delay":
            "ok; running 3; +0 rescheduled 3, +5 succeeded, "
            "+30 called 3.1, succeeded, done 3, hook done 3 ok",
        "reschedule, at":
            "ok; running 3; +0 rescheduled 3, +5 succeeded, "
            "+30 called 3.1, succeeded, done 3, hook done 3 ok",
        "reschedule, no time":
            "ok; running 3; +0 rescheduled 3, +5 succeeded, "
            "+20 called 3.1, succeeded, done 3, hook done 3 ok",
        "reschedule, another url":
            "ok; running 3; +0 rescheduled 3, +5 succeeded, "
            "+20 called 3.1 at other, succeeded, done 3, hook done 3 ok",
        "reschedule another version": "conflict; running 2; as ever",
        "redrive": "conflict; running 2; as ever",
        "redrive by group": "0; running 2; as ever",
        "redrive by queue": "0; running 2; as ever",
        "pause": "paused; running 2; +5 succeeded, +60 called 2.1, succeeded, done 2, hook done 2 ok",
        "resume": "not paused; running 2; as ever",
        "due time comes": "; done 2; as ever",
        "attempt succeeds": "; done 2; as ever",
        "attempt fails, retry left":
            "; done 2; +5 failed, +20 called 2.1, succeeded, done 2, hook done 2 ok",
        "attempt fails, none left": "; done 2; +5 failed, +20 called 2.1, succeeded, done 2, hook done 2 ok",
        "attempt is answered 410": "; done 2; +5 failed, +20 called 2.1, succeeded, done 2, hook done 2 ok",
        "attempt is answered stop": "; done 2; +5 failed, +20 called 2.1, succeeded, done 2, hook done 2 ok",
        "attempt is answered not yet":
            "; done 2; +5 not_yet, +20 called 2.1, succeeded, done 2, hook done 2 ok",
        "attempt times out": "; done 2; +7 failed, +20 called 2.1, succeeded, done 2, hook done 2 ok",
        "expiry comes": "; expired 2; +5 succeeded, expired 2, hook dead 2 expired",
        "expiry comes, the attempt fails": "; expired 2; +5 failed, expired 2, hook dead 2 expired",
        "attempt lapses": "; done 2; +40 called 2.1, succeeded, done 2, hook done 2 ok",
        "attempt lapses, expiry comes": "; expired 2; +5 expired 2, +40 hook dead 2 expired",
        "retention is over": "; unknown; as ever",
        "kill -9 and restart": "; scheduled 2; +20 called 2.1, succeeded, done 2, hook done 2 ok",
        "drain and restart": "; scheduled 2; as ever",
    },
    "running, replaced": {
        "get": "ok; running 2; +5 succeeded, +20 called 2.1, succeeded, done 2, hook done 2 ok",
        "list": "1 listed; running 2; as ever",
        "schedule the same": "duplicate; running 2; as ever",
        "schedule the same, keep": "duplicate; running 2; as ever",
        "schedule the same, replace":
            "ok; running 3; +0 scheduled 3, +5 succeeded, +21 called 3.1, succeeded, done 3, hook done 3 ok",
        "schedule another": "exists; running 2; as ever",
        "schedule another, keep": "duplicate; running 2; as ever",
        "schedule another, replace":
            "ok; running 3; +0 scheduled 3, +5 succeeded, "
            "+21 called 3.1 at other, succeeded, done 3, hook done 3 ok",
        "cancel": "0 1; running 2; +5 succeeded, cancelled 2",
        "cancel by group": "0 1; running 2; +5 succeeded, cancelled 2",
        "cancel another version": "conflict; running 2; as ever",
        "finish": "0 1; running 2; +5 succeeded, done 2, hook done 2 null",
        "finish by group": "0 1; running 2; +5 succeeded, done 2, hook done 2 null",
        "finish with a reply": '0 1; running 2; +5 succeeded, done 2, hook done 2 {"by": "hand"}',
        "reschedule, delay":
            "ok; running 3; +0 rescheduled 3, +5 succeeded, "
            "+30 called 3.1, succeeded, done 3, hook done 3 ok",
        "reschedule, at":
            "ok; running 3; +0 rescheduled 3, +5 succeeded, "
            "+30 called 3.1, succeeded, done 3, hook done 3 ok",
        "reschedule, no time":
            "ok; running 3; +0 rescheduled 3, +5 succeeded, "
            "+20 called 3.1, succeeded, done 3, hook done 3 ok",
        "reschedule, another url":
            "ok; running 3; +0 rescheduled 3, +5 succeeded, "
            "+20 called 3.1 at other, succeeded, done 3, hook done 3 ok",
        "reschedule another version": "conflict; running 2; as ever",
        "redrive": "conflict; running 2; as ever",
        "redrive by group": "0; running 2; as ever",
        "redrive by queue": "0; running 2; as ever",
        "pause": "paused; running 2; +5 succeeded, +60 called 2.1, succeeded, done 2, hook done 2 ok",
        "resume": "not paused; running 2; as ever",
        "due time comes": "; done 2; as ever",
        "attempt succeeds": "; done 2; as ever",
        "attempt fails, retry left":
            "; done 2; +5 failed, +20 called 2.1, succeeded, done 2, hook done 2 ok",
        "attempt fails, none left": "; done 2; +5 failed, +20 called 2.1, succeeded, done 2, hook done 2 ok",
        "attempt is answered 410": "; done 2; +5 failed, +20 called 2.1, succeeded, done 2, hook done 2 ok",
        "attempt is answered stop": "; done 2; +5 failed, +20 called 2.1, succeeded, done 2, hook done 2 ok",
        "attempt is answered not yet":
            "; done 2; +5 not_yet, +20 called 2.1, succeeded, done 2, hook done 2 ok",
        "attempt times out": "; done 2; +7 failed, +20 called 2.1, succeeded, done 2, hook done 2 ok",
        "expiry comes": "; expired 2; +5 succeeded, expired 2, hook dead 2 expired",
        "expiry comes, the attempt fails": "; expired 2; +5 failed, expired 2, hook dead 2 expired",
        "attempt lapses": "; done 2; +40 called 2.1, succeeded, done 2, hook done 2 ok",
        "attempt lapses, expiry comes": "; expired 2; +5 expired 2, +40 hook dead 2 expired",
        "retention is over": "; unknown; as ever",
        "kill -9 and restart": "; scheduled 2; +20 called 2.1, succeeded, done 2, hook done 2 ok",
        "drain and restart": "; scheduled 2; as ever",
    },
    "running, to be cancelled": {
        "get": "ok; running 1; +5 succeeded, done 1, hook done 1 ok",
        "list": "1 listed; running 1; as ever",
        "schedule the same": "duplicate; running 1; as ever",
        "schedule the same, keep": "duplicate; running 1; as ever",
        "schedule the same, replace":
            "ok; running 2; +0 scheduled 2, +5 succeeded, called 2.1, succeeded, done 2, hook done 2 ok",
        "schedule another": "exists; running 1; as ever",
        "schedule another, keep": "duplicate; running 1; as ever",
        "schedule another, replace":
            "ok; running 2; +0 scheduled 2, "
            "+5 succeeded, called 2.1 at other, succeeded, done 2, hook done 2 ok",
        "cancel": "0 1; running 1; as ever",
        "cancel by group": "0 1; running 1; as ever",
        "cancel another version": "conflict; running 1; as ever",
        "finish": "0 1; running 1; +5 succeeded, done 1, hook done 1 null",
        "finish by group": "0 1; running 1; +5 succeeded, done 1, hook done 1 null",
        "finish with a reply": '0 1; running 1; +5 succeeded, done 1, hook done 1 {"by": "hand"}',
        "reschedule, delay": "too_late; running 1; as ever",
        "reschedule, at": "too_late; running 1; as ever",
        "reschedule, no time": "too_late; running 1; as ever",
        "reschedule, another url": "too_late; running 1; as ever",
        "reschedule another version": "conflict; running 1; as ever",
        "redrive": "conflict; running 1; as ever",
        "redrive by group": "0; running 1; as ever",
        "redrive by queue": "0; running 1; as ever",
        "pause": "paused; running 1; +5 succeeded, done 1, +60 hook done 1 ok",
        "resume": "not paused; running 1; as ever",
        "due time comes": "; done 1; as ever",
        "attempt succeeds": "; done 1; as ever",
        "attempt fails, retry left": "; cancelled 1; +5 failed, cancelled 1",
        "attempt fails, none left": "; cancelled 1; +5 failed, cancelled 1",
        "attempt is answered 410": "; cancelled 1; +5 failed, cancelled 1",
        "attempt is answered stop": "; cancelled 1; +5 failed, cancelled 1",
        "attempt is answered not yet": "; cancelled 1; +5 not_yet, cancelled 1",
        "attempt times out": "; cancelled 1; +7 failed, cancelled 1",
        "expiry comes": "; done 1; as ever",
        "expiry comes, the attempt fails": "; cancelled 1; +5 failed, cancelled 1",
        "attempt lapses": "; cancelled 1; +5 cancelled 1",
        "attempt lapses, expiry comes": "; cancelled 1; +5 cancelled 1",
        "retention is over": "; unknown; as ever",
        "kill -9 and restart": "; cancelled 1; +0 cancelled 1",
        "drain and restart": "; done 1; as ever",
    },
    "running, to be finished": {
        "get": 'ok; running 1; +5 succeeded, done 1, hook done 1 {"by": "first"}',
        "list": "1 listed; running 1; as ever",
        "schedule the same": "duplicate; running 1; as ever",
        "schedule the same, keep": "duplicate; running 1; as ever",
        "schedule the same, replace":
            "ok; running 2; +0 scheduled 2, +5 succeeded, called 2.1, succeeded, done 2, hook done 2 ok",
        "schedule another": "exists; running 1; as ever",
        "schedule another, keep": "duplicate; running 1; as ever",
        "schedule another, replace":
            "ok; running 2; +0 scheduled 2, "
            "+5 succeeded, called 2.1 at other, succeeded, done 2, hook done 2 ok",
        "cancel": "0 1; running 1; as ever",
        "cancel by group": "0 1; running 1; as ever",
        "cancel another version": "conflict; running 1; as ever",
        "finish": "0 1; running 1; as ever",
        "finish by group": "0 1; running 1; as ever",
        "finish with a reply": "0 1; running 1; as ever",
        "reschedule, delay": "too_late; running 1; as ever",
        "reschedule, at": "too_late; running 1; as ever",
        "reschedule, no time": "too_late; running 1; as ever",
        "reschedule, another url": "too_late; running 1; as ever",
        "reschedule another version": "conflict; running 1; as ever",
        "redrive": "conflict; running 1; as ever",
        "redrive by group": "0; running 1; as ever",
        "redrive by queue": "0; running 1; as ever",
        "pause": 'paused; running 1; +5 succeeded, done 1, +60 hook done 1 {"by": "first"}',
        "resume": "not paused; running 1; as ever",
        "due time comes": "; done 1; as ever",
        "attempt succeeds": "; done 1; as ever",
        "attempt fails, retry left": '; done 1; +5 failed, done 1, hook done 1 {"by": "first"}',
        "attempt fails, none left": '; done 1; +5 failed, done 1, hook done 1 {"by": "first"}',
        "attempt is answered 410": '; done 1; +5 failed, done 1, hook done 1 {"by": "first"}',
        "attempt is answered stop": '; done 1; +5 failed, done 1, hook done 1 {"by": "first"}',
        "attempt is answered not yet": '; done 1; +5 not_yet, done 1, hook done 1 {"by": "first"}',
        "attempt times out": '; done 1; +7 failed, done 1, hook done 1 {"by": "first"}',
        "expiry comes": "; done 1; as ever",
        "expiry comes, the attempt fails": '; done 1; +5 failed, done 1, hook done 1 {"by": "first"}',
        "attempt lapses": '; done 1; +5 done 1, +40 hook done 1 {"by": "first"}',
        "attempt lapses, expiry comes": '; done 1; +5 done 1, +40 hook done 1 {"by": "first"}',
        "retention is over": "; unknown; as ever",
        "kill -9 and restart": '; done 1; +0 done 1, hook done 1 {"by": "first"}',
        "drain and restart": "; done 1; as ever",
    },
}  # fmt: skip
