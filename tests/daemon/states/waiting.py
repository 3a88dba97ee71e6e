"""What comes to a task that waits for its time, and to one that is due and waits to go.

How a cell reads is said in ``story.py``.
"""

from __future__ import annotations

from typing import Final

CELLS: Final[dict[str, dict[str, str]]] = {
    "scheduled": {
        "get": "ok; scheduled 1; +5 called 1.1, succeeded, done 1, hook done 1 ok",
        "list": "1 listed; scheduled 1; as ever",
        "schedule the same": "duplicate; scheduled 1; as ever",
        "schedule the same, keep": "duplicate; scheduled 1; as ever",
        "schedule the same, replace":
            "ok; scheduled 2; +0 scheduled 2, +10 called 2.1, succeeded, done 2, hook done 2 ok",
        "schedule another": "exists; scheduled 1; as ever",
        "schedule another, keep": "duplicate; scheduled 1; as ever",
        "schedule another, replace":
            "ok; scheduled 2; +0 scheduled 2, +10 called 2.1 at other, succeeded, done 2, hook done 2 ok",
        "cancel": "1 0; cancelled 1; +0 cancelled 1",
        "cancel by group": "1 0; cancelled 1; +0 cancelled 1",
        "cancel another version": "conflict; scheduled 1; as ever",
        "finish": "1 0; done 1; +0 done 1, hook done 1 null",
        "finish by group": "1 0; done 1; +0 done 1, hook done 1 null",
        "finish with a reply": '1 0; done 1; +0 done 1, hook done 1 {"by": "hand"}',
        "reschedule, delay":
            "ok; scheduled 2; +0 rescheduled 2, +30 called 2.1, succeeded, done 2, hook done 2 ok",
        "reschedule, at":
            "ok; scheduled 2; +0 rescheduled 2, +30 called 2.1, succeeded, done 2, hook done 2 ok",
        "reschedule, no time":
            "ok; scheduled 2; +0 rescheduled 2, +5 called 2.1, succeeded, done 2, hook done 2 ok",
        "reschedule, another url":
            "ok; scheduled 2; +0 rescheduled 2, +5 called 2.1 at other, succeeded, done 2, hook done 2 ok",
        "reschedule another version": "conflict; scheduled 1; as ever",
        "redrive": "conflict; scheduled 1; as ever",
        "redrive by group": "0; scheduled 1; as ever",
        "redrive by queue": "0; scheduled 1; as ever",
        "pause": "paused; scheduled 1; +60 called 1.1, succeeded, done 1, hook done 1 ok",
        "resume": "not paused; scheduled 1; as ever",
        "due time comes": "; done 1; as ever",
        "attempt succeeds": "; done 1; as ever",
        "attempt fails, retry left":
            "; done 1; +5 called 1.1, failed, +15 called 1.2, succeeded, done 1, hook done 1 ok",
        "attempt fails, none left": "; dead 1; +5 called 1.1, failed, dead 1, hook dead 1 no",
        "attempt is answered 410": "; dead 1; +5 called 1.1, failed, dead 1, hook dead 1 gone",
        "attempt is answered stop": "; dead 1; +5 called 1.1, failed, dead 1, hook dead 1 no",
        "attempt is answered not yet":
            "; done 1; +5 called 1.1, not_yet, +15 called 1.2, succeeded, done 1, hook done 1 ok",
        "attempt times out":
            "; done 1; +5 called 1.1, +14 failed, +24 called 1.2, succeeded, done 1, hook done 1 ok",
        "expiry comes": "; expired 1; +2 expired 1, hook dead 1 expired",
        "expiry comes, the attempt fails": "; expired 1; +2 expired 1, hook dead 1 expired",
        "attempt lapses": "; done 1; +40 called 1.1, succeeded, done 1, hook done 1 ok",
        "attempt lapses, expiry comes": "; expired 1; +2 expired 1, +40 hook dead 1 expired",
        "retention is over": "; unknown; as ever",
        "kill -9 and restart": "; scheduled 1; as ever",
        "drain and restart": "; scheduled 1; as ever",
    },
    "scheduled, between attempts": {
        "get": "ok; scheduled 1; +5 called 1.2, succeeded, done 1, hook done 1 ok",
        "list": "1 listed; scheduled 1; as ever",
        "schedule the same": "duplicate; scheduled 1; as ever",
        "schedule the same, keep": "duplicate; scheduled 1; as ever",
        "schedule the same, replace":
            "ok; scheduled 2; +0 scheduled 2, +1 called 2.1, succeeded, done 2, hook done 2 ok",
        "schedule another": "exists; scheduled 1; as ever",
        "schedule another, keep": "duplicate; scheduled 1; as ever",
        "schedule another, replace":
            "ok; scheduled 2; +0 scheduled 2, +1 called 2.1 at other, succeeded, done 2, hook done 2 ok",
        "cancel": "1 0; cancelled 1; +0 cancelled 1",
        "cancel by group": "1 0; cancelled 1; +0 cancelled 1",
        "cancel another version": "conflict; scheduled 1; as ever",
        "finish": "1 0; done 1; +0 done 1, hook done 1 null",
        "finish by group": "1 0; done 1; +0 done 1, hook done 1 null",
        "finish with a reply": '1 0; done 1; +0 done 1, hook done 1 {"by": "hand"}',
        "reschedule, delay":
            "ok; scheduled 2; +0 rescheduled 2, +30 called 2.1, succeeded, done 2, hook done 2 ok",
        "reschedule, at":
            "ok; scheduled 2; +0 rescheduled 2, +30 called 2.1, succeeded, done 2, hook done 2 ok",
        "reschedule, no time": "ok; done 2; +0 rescheduled 2, called 2.1, succeeded, done 2, hook done 2 ok",
        "reschedule, another url":
            "ok; done 2; +0 rescheduled 2, called 2.1 at other, succeeded, done 2, hook done 2 ok",
        "reschedule another version": "conflict; scheduled 1; as ever",
        "redrive": "conflict; scheduled 1; as ever",
        "redrive by group": "0; scheduled 1; as ever",
        "redrive by queue": "0; scheduled 1; as ever",
        "pause": "paused; scheduled 1; +60 called 1.2, succeeded, done 1, hook done 1 ok",
        "resume": "not paused; scheduled 1; as ever",
        "due time comes": "; done 1; as ever",
        "attempt succeeds": "; done 1; as ever",
        "attempt fails, retry left":
            "; done 1; +5 called 1.2, failed, +15 called 1.3, succeeded, done 1, hook done 1 ok",
        "attempt fails, none left": "; dead 1; +5 called 1.2, failed, dead 1, hook dead 1 no",
        "attempt is answered 410": "; dead 1; +5 called 1.2, failed, dead 1, hook dead 1 gone",
        "attempt is answered stop": "; dead 1; +5 called 1.2, failed, dead 1, hook dead 1 no",
        "attempt is answered not yet":
            "; done 1; +5 called 1.2, not_yet, +15 called 1.3, succeeded, done 1, hook done 1 ok",
        "attempt times out":
            "; done 1; +5 called 1.2, +14 failed, +24 called 1.3, succeeded, done 1, hook done 1 ok",
        "expiry comes": "; expired 1; +2 expired 1, hook dead 1 expired",
        "expiry comes, the attempt fails": "; expired 1; +2 expired 1, hook dead 1 expired",
        "attempt lapses": "; done 1; +40 called 1.2, succeeded, done 1, hook done 1 ok",
        "attempt lapses, expiry comes": "; expired 1; +2 expired 1, +40 hook dead 1 expired",
        "retention is over": "; unknown; as ever",
        "kill -9 and restart": "; scheduled 1; as ever",
        "drain and restart": "; scheduled 1; as ever",
    },
    "scheduled, between polls": {
        "get": "ok; scheduled 1; +5 called 1.2, succeeded, done 1, hook done 1 ok",
        "list": "1 listed; scheduled 1; as ever",
        "schedule the same": "duplicate; scheduled 1; as ever",
        "schedule the same, keep": "duplicate; scheduled 1; as ever",
        "schedule the same, replace":
            "ok; scheduled 2; +0 scheduled 2, +1 called 2.1, succeeded, done 2, hook done 2 ok",
        "schedule another": "exists; scheduled 1; as ever",
        "schedule another, keep": "duplicate; scheduled 1; as ever",
        "schedule another, replace":
            "ok; scheduled 2; +0 scheduled 2, +1 called 2.1 at other, succeeded, done 2, hook done 2 ok",
        "cancel": "1 0; cancelled 1; +0 cancelled 1",
        "cancel by group": "1 0; cancelled 1; +0 cancelled 1",
        "cancel another version": "conflict; scheduled 1; as ever",
        "finish": "1 0; done 1; +0 done 1, hook done 1 null",
        "finish by group": "1 0; done 1; +0 done 1, hook done 1 null",
        "finish with a reply": '1 0; done 1; +0 done 1, hook done 1 {"by": "hand"}',
        "reschedule, delay":
            "ok; scheduled 2; +0 rescheduled 2, +30 called 2.1, succeeded, done 2, hook done 2 ok",
        "reschedule, at":
            "ok; scheduled 2; +0 rescheduled 2, +30 called 2.1, succeeded, done 2, hook done 2 ok",
        "reschedule, no time": "ok; done 2; +0 rescheduled 2, called 2.1, succeeded, done 2, hook done 2 ok",
        "reschedule, another url":
            "ok; done 2; +0 rescheduled 2, called 2.1 at other, succeeded, done 2, hook done 2 ok",
        "reschedule another version": "conflict; scheduled 1; as ever",
        "redrive": "conflict; scheduled 1; as ever",
        "redrive by group": "0; scheduled 1; as ever",
        "redrive by queue": "0; scheduled 1; as ever",
        "pause": "paused; scheduled 1; +60 called 1.2, succeeded, done 1, hook done 1 ok",
        "resume": "not paused; scheduled 1; as ever",
        "due time comes": "; done 1; as ever",
        "attempt succeeds": "; done 1; as ever",
        "attempt fails, retry left":
            "; done 1; +5 called 1.2, failed, +15 called 1.3, succeeded, done 1, hook done 1 ok",
        "attempt fails, none left": "; dead 1; +5 called 1.2, failed, dead 1, hook dead 1 no",
        "attempt is answered 410": "; dead 1; +5 called 1.2, failed, dead 1, hook dead 1 gone",
        "attempt is answered stop": "; dead 1; +5 called 1.2, failed, dead 1, hook dead 1 no",
        "attempt is answered not yet":
            "; done 1; +5 called 1.2, not_yet, +15 called 1.3, succeeded, done 1, hook done 1 ok",
        "attempt times out":
            "; done 1; +5 called 1.2, +14 failed, +24 called 1.3, succeeded, done 1, hook done 1 ok",
        "expiry comes": "; expired 1; +2 expired 1, hook dead 1 expired",
        "expiry comes, the attempt fails": "; expired 1; +2 expired 1, hook dead 1 expired",
        "attempt lapses": "; done 1; +40 called 1.2, succeeded, done 1, hook done 1 ok",
        "attempt lapses, expiry comes": "; expired 1; +2 expired 1, +40 hook dead 1 expired",
        "retention is over": "; unknown; as ever",
        "kill -9 and restart": "; scheduled 1; as ever",
        "drain and restart": "; scheduled 1; as ever",
    },
    "ready, waits for a permit": {
        "get": "ok; ready 1; +5 called 1.1, succeeded, done 1, hook done 1 ok",
        "list": "1 listed; ready 1; as ever",
        "schedule the same": "duplicate; ready 1; as ever",
        "schedule the same, keep": "duplicate; ready 1; as ever",
        "schedule the same, replace":
            "ok; scheduled 2; +0 scheduled 2, +5 called 2.1, succeeded, done 2, hook done 2 ok",
        "schedule another": "exists; ready 1; as ever",
        "schedule another, keep": "duplicate; ready 1; as ever",
        "schedule another, replace":
            "ok; scheduled 2; +0 scheduled 2, +5 called 2.1 at other, succeeded, done 2, hook done 2 ok",
        "cancel": "1 0; cancelled 1; +0 cancelled 1",
        "cancel by group": "1 0; cancelled 1; +0 cancelled 1",
        "cancel another version": "conflict; ready 1; as ever",
        "finish": "1 0; done 1; +0 done 1, +5 hook done 1 null",
        "finish by group": "1 0; done 1; +0 done 1, +5 hook done 1 null",
        "finish with a reply": '1 0; done 1; +0 done 1, +5 hook done 1 {"by": "hand"}',
        "reschedule, delay":
            "ok; scheduled 2; +0 rescheduled 2, +30 called 2.1, succeeded, done 2, hook done 2 ok",
        "reschedule, at":
            "ok; scheduled 2; +0 rescheduled 2, +30 called 2.1, succeeded, done 2, hook done 2 ok",
        "reschedule, no time":
            "ok; ready 2; +0 rescheduled 2, +5 called 2.1, succeeded, done 2, hook done 2 ok",
        "reschedule, another url":
            "ok; ready 2; +0 rescheduled 2, +5 called 2.1 at other, succeeded, done 2, hook done 2 ok",
        "reschedule another version": "conflict; ready 1; as ever",
        "redrive": "conflict; ready 1; as ever",
        "redrive by group": "0; ready 1; as ever",
        "redrive by queue": "0; ready 1; as ever",
        "pause": "paused; ready 1; +60 called 1.1, succeeded, done 1, hook done 1 ok",
        "resume": "not paused; ready 1; as ever",
        "due time comes": "; done 1; as ever",
        "attempt succeeds": "; done 1; as ever",
        "attempt fails, retry left":
            "; done 1; +5 called 1.1, failed, +15 called 1.2, succeeded, done 1, hook done 1 ok",
        "attempt fails, none left": "; dead 1; +5 called 1.1, failed, dead 1, hook dead 1 no",
        "attempt is answered 410": "; dead 1; +5 called 1.1, failed, dead 1, hook dead 1 gone",
        "attempt is answered stop": "; dead 1; +5 called 1.1, failed, dead 1, hook dead 1 no",
        "attempt is answered not yet":
            "; done 1; +5 called 1.1, not_yet, +15 called 1.2, succeeded, done 1, hook done 1 ok",
        "attempt times out":
            "; done 1; +5 called 1.1, +14 failed, +24 called 1.2, succeeded, done 1, hook done 1 ok",
        "expiry comes": "; expired 1; +2 expired 1, +5 hook dead 1 expired",
        "expiry comes, the attempt fails": "; expired 1; +2 expired 1, +5 hook dead 1 expired",
        "attempt lapses": "; done 1; +40 called 1.1, succeeded, done 1, hook done 1 ok",
        "attempt lapses, expiry comes": "; expired 1; +5 expired 1, +40 hook dead 1 expired",
        "retention is over": "; unknown; as ever",
        "kill -9 and restart": "; ready 1; as ever",
        "drain and restart": "; done 1; as ever",
    },
    "ready, queue paused": {
        "get": "ok; ready 1; +60 called 1.1, succeeded, done 1, hook done 1 ok",
        "list": "1 listed; ready 1; as ever",
        "schedule the same": "duplicate; ready 1; as ever",
        "schedule the same, keep": "duplicate; ready 1; as ever",
        "schedule the same, replace":
            "ok; scheduled 2; +0 scheduled 2, +60 called 2.1, succeeded, done 2, hook done 2 ok",
        "schedule another": "exists; ready 1; as ever",
        "schedule another, keep": "duplicate; ready 1; as ever",
        "schedule another, replace":
            "ok; scheduled 2; +0 scheduled 2, +60 called 2.1 at other, succeeded, done 2, hook done 2 ok",
        "cancel": "1 0; cancelled 1; +0 cancelled 1",
        "cancel by group": "1 0; cancelled 1; +0 cancelled 1",
        "cancel another version": "conflict; ready 1; as ever",
        "finish": "1 0; done 1; +0 done 1, +60 hook done 1 null",
        "finish by group": "1 0; done 1; +0 done 1, +60 hook done 1 null",
        "finish with a reply": '1 0; done 1; +0 done 1, +60 hook done 1 {"by": "hand"}',
        "reschedule, delay":
            "ok; scheduled 2; +0 rescheduled 2, +60 called 2.1, succeeded, done 2, hook done 2 ok",
        "reschedule, at":
            "ok; scheduled 2; +0 rescheduled 2, +60 called 2.1, succeeded, done 2, hook done 2 ok",
        "reschedule, no time":
            "ok; ready 2; +0 rescheduled 2, +60 called 2.1, succeeded, done 2, hook done 2 ok",
        "reschedule, another url":
            "ok; ready 2; +0 rescheduled 2, +60 called 2.1 at other, succeeded, done 2, hook done 2 ok",
        "reschedule another version": "conflict; ready 1; as ever",
        "redrive": "conflict; ready 1; as ever",
        "redrive by group": "0; ready 1; as ever",
        "redrive by queue": "0; ready 1; as ever",
        "pause": "paused; ready 1; as ever",
        "resume": "not paused; done 1; +0 called 1.1, succeeded, done 1, hook done 1 ok",
        "due time comes": "; done 1; as ever",
        "attempt succeeds": "; done 1; as ever",
        "attempt fails, retry left":
            "; done 1; +60 called 1.1, failed, +70 called 1.2, succeeded, done 1, hook done 1 ok",
        "attempt fails, none left": "; dead 1; +60 called 1.1, failed, dead 1, hook dead 1 no",
        "attempt is answered 410": "; dead 1; +60 called 1.1, failed, dead 1, hook dead 1 gone",
        "attempt is answered stop": "; dead 1; +60 called 1.1, failed, dead 1, hook dead 1 no",
        "attempt is answered not yet":
            "; done 1; +60 called 1.1, not_yet, +70 called 1.2, succeeded, done 1, hook done 1 ok",
        "attempt times out":
            "; done 1; +60 called 1.1, +69 failed, +79 called 1.2, succeeded, done 1, hook done 1 ok",
        "expiry comes": "; expired 1; +2 expired 1, +60 hook dead 1 expired",
        "expiry comes, the attempt fails": "; expired 1; +2 expired 1, +60 hook dead 1 expired",
        "attempt lapses": "; done 1; as ever",
        "attempt lapses, expiry comes": "; expired 1; +2 expired 1, +60 hook dead 1 expired",
        "retention is over": "; unknown; as ever",
        "kill -9 and restart": "; ready 1; as ever",
        "drain and restart": "; ready 1; as ever",
    },
    "ready, destination held": {
        "get": "ok; ready 1; +25 called 1.1, succeeded, done 1, hook done 1 ok",
        "list": "1 listed; ready 1; as ever",
        "schedule the same": "duplicate; ready 1; as ever",
        "schedule the same, keep": "duplicate; ready 1; as ever",
        "schedule the same, replace":
            "ok; scheduled 2; +0 scheduled 2, +25 called 2.1, succeeded, done 2, hook done 2 ok",
        "schedule another": "exists; ready 1; as ever",
        "schedule another, keep": "duplicate; ready 1; as ever",
        "schedule another, replace":
            "ok; scheduled 2; +0 scheduled 2, +1 called 2.1 at other, succeeded, done 2, +25 hook done 2 ok",
        "cancel": "1 0; cancelled 1; +0 cancelled 1",
        "cancel by group": "1 0; cancelled 1; +0 cancelled 1",
        "cancel another version": "conflict; ready 1; as ever",
        "finish": "1 0; done 1; +0 done 1, +25 hook done 1 null",
        "finish by group": "1 0; done 1; +0 done 1, +25 hook done 1 null",
        "finish with a reply": '1 0; done 1; +0 done 1, +25 hook done 1 {"by": "hand"}',
        "reschedule, delay":
            "ok; scheduled 2; +0 rescheduled 2, +30 called 2.1, succeeded, done 2, hook done 2 ok",
        "reschedule, at":
            "ok; scheduled 2; +0 rescheduled 2, +30 called 2.1, succeeded, done 2, hook done 2 ok",
        "reschedule, no time":
            "ok; ready 2; +0 rescheduled 2, +25 called 2.1, succeeded, done 2, hook done 2 ok",
        "reschedule, another url":
            "ok; done 2; +0 rescheduled 2, called 2.1 at other, succeeded, done 2, +25 hook done 2 ok",
        "reschedule another version": "conflict; ready 1; as ever",
        "redrive": "conflict; ready 1; as ever",
        "redrive by group": "0; ready 1; as ever",
        "redrive by queue": "0; ready 1; as ever",
        "pause": "paused; ready 1; +60 called 1.1, succeeded, done 1, hook done 1 ok",
        "resume": "not paused; ready 1; as ever",
        "due time comes": "; done 1; as ever",
        "attempt succeeds": "; done 1; as ever",
        "attempt fails, retry left":
            "; done 1; +25 called 1.1, failed, +35 called 1.2, succeeded, done 1, hook done 1 ok",
        "attempt fails, none left": "; dead 1; +25 called 1.1, failed, dead 1, hook dead 1 no",
        "attempt is answered 410": "; dead 1; +25 called 1.1, failed, dead 1, hook dead 1 gone",
        "attempt is answered stop": "; dead 1; +25 called 1.1, failed, dead 1, hook dead 1 no",
        "attempt is answered not yet":
            "; done 1; +25 called 1.1, not_yet, +35 called 1.2, succeeded, done 1, hook done 1 ok",
        "attempt times out":
            "; dead 1; +25 called 1.1, +34 failed, +44 dead 1, +64 hook dead 1 destination_down",
        "expiry comes": "; expired 1; +2 expired 1, +25 hook dead 1 expired",
        "expiry comes, the attempt fails": "; expired 1; +2 expired 1, +25 hook dead 1 expired",
        "attempt lapses": "; done 1; +40 called 1.1, succeeded, done 1, hook done 1 ok",
        "attempt lapses, expiry comes": "; expired 1; +2 expired 1, +40 hook dead 1 expired",
        "retention is over": "; unknown; as ever",
        "kill -9 and restart": "; scheduled 1; +0 failed, +10 called 1.2, succeeded, done 1, hook done 1 ok",
        "drain and restart": "; scheduled 1; +0 failed, +10 called 1.2, succeeded, done 1, hook done 1 ok",
    },
}  # fmt: skip
