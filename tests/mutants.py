"""Breaks the code on purpose, one way at a time, and shows which test notices.

    python -m tests.mutants                    all of them
    python -m tests.mutants round-early ...    these
    python -m tests.mutants --sample 5         some, by a seed that is printed

A mutant is a piece of text in one file and what stands there instead. It is put into a copy of the
package, never into the working tree, and the tests named with it run against the copy until one fails;
that one has to pass on the copy without the mutant.
Text that the code no longer has is an error, and so is a mutant that every test lets pass.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[1]
PATIENCE_S: Final = 240  # for the tests of one mutant; one that only hangs is not caught


class Mutant(NamedTuple):
    """``old`` stands once in ``file``, or ``times``; ``tests`` are pytest's arguments."""

    name: str
    file: str
    old: str
    new: str
    tests: str
    times: int = 1


MUTANTS: Final = (
    # -- what ``ok`` means ---------------------------------------------------------------------------
    Mutant(
        "acknowledge-before-fsync", "journal/writer.py",
        "segment.offset)\n        self._sync()\n",
        "segment.offset)\n",
        "tests/journal/test_power_loss.py tests/journal/test_committer.py",
    ),
    Mutant(
        "retry-a-failed-fsync", "journal/writer.py",
        "            self.pace.sync(self.disk, self.segment.fd, segment_name(self.segment.number))",
        "            try:\n                self.disk.fdatasync(self.segment.fd)\n"
        "            except OSError:\n                self.disk.fdatasync(self.segment.fd)",
        "tests/journal tests/simulation/test_disk_accidents.py -k sync",
    ),
    Mutant(
        "no-directory-fsync", "journal/directory.py",
        "                self.disk.sync_folder(self.path)\n            except",
        "                pass\n            except",
        "tests/journal/test_power_loss.py tests/journal/test_recovery.py",
    ),
    Mutant(
        "a-missing-descriptor-is-a-failed-disk", "journal/preallocation.py",
        '    **dict.fromkeys(NO_DESCRIPTOR, "file descriptors"),\n', "",
        "tests/journal/test_no_descriptors.py tests/simulation/test_no_descriptors.py",
    ),
    Mutant(
        "the-journal-gives-its-descriptors-away", "journal/spare_descriptors.py",
        "if len(self._fds) < self._wanted:", "if False:", "tests/journal/test_no_descriptors.py",
    ),
    Mutant(
        "kept-connections-are-in-no-sum", "daemon/process.py",
        "idle = max(1, min(IDLE_MAX, left - connections * each))", "idle = IDLE_MAX",
        "tests/daemon/test_descriptors.py",
    ),
    Mutant(
        "a-client-is-turned-away-before-kept-connections-go", "server/rejection.py",
        "given_up = self._give_up_idle(GIVEN_UP)", "given_up = 0", "tests/server/test_rejection.py",
    ),
    Mutant(
        "sync-the-folder-again-after-a-failure", "journal/directory.py",
        "self._failure = exc", "pass", "tests/journal/test_directory.py",
    ),
    Mutant(
        "a-boot-that-writes-nothing-leaves-no-note", "journal/file_log.py",
        "return bool(self.found.boots) and self._writer.lacks_boot", "return False",
        "tests/simulation/test_accidents.py -k clock",
    ),
    Mutant(
        "steps-of-the-boots-between-are-forgotten", "shard/startup.py",
        "+ steps_ns - _ahead_ns(begun)", "- _ahead_ns(begun)",
        "tests/simulation/test_accidents.py tests/core/test_engine_model.py -k clock",
    ),
    Mutant(
        "ignore-a-short-write", "journal/disk.py", "while written < len(data):", "while False:",
        "tests/journal tests/simulation/test_disk_accidents.py -k short",
    ),
    Mutant(
        "reply-before-durable", "server/send_queue.py", "while waiting and waiting[0][0] <= durable_lsn:",
        "while waiting:", "tests/server/test_service.py tests/server/test_slow_disk.py",
    ),
    Mutant(
        "call-before-durable", "delivery/dispatcher.py", "task.lsn > self._durable_lsn()", "False",
        "tests/delivery/test_dispatcher.py", 2,
    ),
    Mutant(
        "what-was-begun-is-never-sent", "delivery/dispatcher.py",
        "        self._flush()\n", "", "tests/delivery/test_dispatcher.py -k begin",
    ),
    Mutant(
        "a-late-signal-ends-the-process", "daemon/process.py",
        "        if unless():\n            return\n", "",
        "tests/process/test_storage.py -k last_moments",
    ),
    Mutant(
        "apply-without-room", "shard/durable.py",
        "if not journal.reserve(size, essential=not new_work):\n                return False",
        "journal.reserve(size, essential=not new_work)",
        "tests/shard/test_room_for_outcomes.py tests/server/test_service.py",
    ),
    Mutant(
        "start-without-room-for-the-outcome", "shard/durable.py",
        "if not self.journal.reserve(size, essential=True):\n            return False\n"
        "        self._held[key]",
        "self.journal.reserve(size, essential=True)\n        self._held[key]",
        "tests/shard/test_room_for_outcomes.py",
    ),
    # -- the journal's bytes -------------------------------------------------------------------------
    Mutant(
        "no-marker", "journal/committer.py", "if not (self._records or self._ready):", "if False:",
        "tests/journal/test_committer.py tests/journal/test_power_loss.py tests/journal/test_recovery.py",
    ),
    Mutant(
        "a-tail-made-anew-loses-the-clocks-of-other-boots", "journal/segment.py",
        "        if mark is not None:\n            out", "        if False:\n            out",
        "tests/journal/test_recovery.py tests/journal/test_golden.py",
    ),
    Mutant(
        "half-a-marker-is-damage", "journal/segment.py",
        "return bool(later) and all(each.synced_lsn <= header.last_lsn for each in later)", "return False",
        "tests/journal/test_recovery.py -k half",
    ),
    Mutant(
        "no-seal", "journal/writer.py", "        self.disk.write(old.fd, seal, old.offset)\n", "",
        "tests/journal/test_committer.py tests/journal/test_recovery.py",
    ),
    Mutant(
        "damage-taken-for-a-torn-tail", "journal/recovery.py",
        "if state.fault and (state.proven or not last):", "if state.fault and not last:",
        "tests/journal/test_recovery.py tests/journal_tools/test_check.py",
    ),
    Mutant(
        "a-missing-segment-passes", "journal/recovery.py",
        "if self.before is not None and number != self.before.number + 1:", "if False:",
        "tests/journal/test_recovery.py tests/journal_tools/test_check.py",
    ),
    Mutant(
        "skip-the-trim", "journal/committer.py", "self._close_batch(Kind.TRIM)",
        "self._close_batch(Kind.BATCH)",
        "tests/journal/test_committer.py tests/shard/test_compactor.py",
    ),
    Mutant(
        "unlink-before-the-trim-is-durable", "journal/committer.py",
        "self._jobs_after.append((self._last_lsn, partial(self._writer.drop, below)))",
        "self._jobs_after.append((0, partial(self._writer.drop, below)))",
        "tests/journal tests/simulation -k trim",
    ),
    Mutant(
        "history-beyond-the-promise", "journal/trim_policy.py",
        "max(0, min(wanted, FIXED_BYTES - _FIXED_SEGMENTS * segment_bytes))", "wanted",
        "tests/shard/test_compactor.py -k history",
    ),
    Mutant(
        "compaction-never-hurries", "shard/compactor.py", "if not self._hurry():\n            return await",
        "if True:\n            return await", "tests/shard/test_compactor.py -k hurry",
    ),
    Mutant(
        "a-flood-works-on-beside-a-commit", "server/service.py", "self._turn.pause_bulk_until(lsn)", "pass",
        "tests/server/test_time_slices.py -k flood",
    ),
    Mutant(
        "a-hush-starves-those-who-bring-much", "runtime/time_slices.py", "if left_ns > 0:",
        "while (left_ns := self._hush_until_ns - time.perf_counter_ns()) > 0:",
        "tests/server/test_time_slices.py -k starve",
    ),
    Mutant(
        "who-comes-in-passes-the-line", "server/listeners.py", "await self._turn.enter()", "pass",
        "tests/server/test_time_slices.py -k comes_in",
    ),
    Mutant(
        "a-hurry-waits-for-each-sync", "shard/compactor.py", "HURRIED_DECISIONS if self._hurry() else 1",
        "1", "tests/shard/test_compactor.py -k busy_disk",
    ),
    Mutant(
        "a-copy-drops-the-stored-stop", "core/copies.py", "flight=0, carried_lsn=lsn",
        "flight=0, stop=0, carried_lsn=lsn",
        "tests/core/test_copies.py",
    ),
    Mutant(
        "a-trim-loses-the-counts", "core/copies.py", "**engine.outcomes",
        "succeeded=0, failed=0, not_yet=0",
        "tests/core/test_copies.py",
    ),
    # -- logs, clocks, the folder ----------------------------------------------------------------------
    Mutant(
        "a-log-that-nobody-reads-grows", "runtime/log_writer.py",
        "self._overflowed = self._bytes + len(text) > room", "self._overflowed = False",
        "tests/runtime/test_log_writer.py -k lost",
    ),
    Mutant(
        "a-deleted-segment-takes-records", "journal/writer.py",
        "self.disk.need_name(segment.fd)", "pass", "tests/journal/test_folder.py -k never_acknowledged",
    ),
    Mutant(
        "a-spare-is-taken-unread", "journal/preallocation.py", "if found >= 0:", "if found > 10**12:",
        "tests/journal/test_folder.py -k flipped_bit",
    ),
    Mutant(
        "a-cut-segment-passes", "journal/recovery.py", "if len(data) < head.size:", "if len(data) < 0:",
        "tests/journal/test_folder.py -k is_cut",
    ),
    Mutant(
        "another-time-namespace-is-this-boot", "runtime/clock.py", "if ahead_ns == 0:", "if True:",
        "tests/runtime/test_boot_id.py",
    ),
    Mutant(
        "retention-follows-a-clock-that-is-set", "core/engine.py",
        "return ended_ns if error_ns > tolerance_ns else None", "return None",
        "tests/core/test_retention.py -k set_after_boot",
    ),
    # -- accidents that others had, in the simulated world --------------------------------------------
    Mutant(
        "a-delay-begins-anew-at-a-start", "shard/startup.py", "        rebase, ahead_ns = None, ",
        "        rebase = lambda ns, then=frame.clocks: ns + now.elapsed_ns - then.boottime_ns\n"
        "        ahead_ns = ",
        "tests/simulation/test_accidents.py -k put_a_delay_off",
    ),
    Mutant(
        "a-delay-begins-anew-in-another-boot", "shard/startup.py",
        "return min(deadline_ns + between_ns, now", "return max(deadline_ns + between_ns, now",
        "tests/simulation/test_accidents.py -k put_a_delay_off",
    ),
    Mutant(
        "an-old-task-pins-its-segment", "shard/compactor.py", "if not going or not",
        "if not going or any(stands_at(row) <= going[-1].last_lsn for _, row in self._engine.table.items()) "
        "or not", "tests/simulation/test_accidents.py -k old_task_does_not_pin",
    ),
    Mutant(
        "what-was-delayed-again-counts-as-live", "shard/compactor.py", "return engine.table.size +",
        "return engine.table.size + 100 * self._journal.next_lsn +",
        "tests/simulation/test_accidents.py -k delaying_again",
    ),
    Mutant(
        "a-backlog-goes-all-at-once", "delivery/window.py", "if self.in_flight >= self.size:", "if False:",
        "tests/simulation/test_accidents.py -k backlog",
    ),
    Mutant(
        "a-backlog-loses-its-order", "shard/startup.py",
        "return min(deadline_ns + between_ns, now.elapsed_ns + deadline_ns - written.boottime_ns)",
        "return max(deadline_ns + between_ns, now.elapsed_ns)",
        "tests/simulation/test_accidents.py -k backlog",
    ),
    Mutant(
        "our-own-shortage-is-a-failed-connect", "delivery/resolve.py",
        "    raise_if_short(failures)\n    texts", "    texts", "tests/delivery/test_shortage.py",
    ),
    Mutant(
        "a-lapse-keeps-the-room-of-its-outcome", "shard/durable.py",
        "            self.journal.release(reserved)\n            self.apply_volatile(what)",
        "            self.apply_volatile(what)", "tests/daemon/test_lapsed.py",
    ),
    Mutant(
        "a-lapse-passes-over-a-stored-stop", "core/outcome.py",
        "return stopped(engine, key, task, now, lsn) if task.stop else", "return",
        "tests/core/test_transitions.py -k every_state",
    ),
    Mutant(
        "a-short-time-out-holds", "delivery/window.py",
        'or (kind == "timeout" and (answer.given_ms or 0) < TIMEOUT_TELLS_MS)', "",
        "tests/delivery/test_short_timeouts.py",
    ),
    Mutant(
        "a-failed-attempt-is-not-counted", "core/outcome.py",
        'failures = sent.failures + (outcome == "failed")', 'failures = int(outcome == "failed")',
        "tests/simulation/test_accidents.py -k every_retry",
    ),
    Mutant(
        "the-next-attempt-lies-in-the-past", "core/outcome.py", "next_ms = now.wall_ms + wait_ms",
        "next_ms = now.wall_ms - wait_ms", "tests/simulation/test_accidents.py -k every_retry",
    ),
    Mutant(
        "the-last-copies-are-left-out", "shard/compactor.py",
        "        while waiting:\n            waiting = await self._carry(waiting, upto_lsn)\n        await",
        "        await", "tests/simulation/test_accidents.py -k trimmed",
    ),
    Mutant(
        "segments-go-before-their-trim-is-on-disk", "journal/committer.py",
        "self._jobs_after.append((self._last_lsn, partial(self._writer.drop, below)))",
        "self._jobs_after.append((0, partial(self._writer.drop, below)))",
        "tests/simulation/test_accidents.py -k trimmed",
    ),
    Mutant(
        "no-sync-unless-asked", "settings/definitions.py", '] = "group"', '] = "off"',
        "tests/simulation/test_accidents.py -k without_any_setting",
    ),
    Mutant(
        "a-failed-sync-is-passed-over", "journal/writer.py",
        "            self.pace.sync(self.disk, self.segment.fd, segment_name(self.segment.number))",
        "            try:\n                self.disk.fdatasync(self.segment.fd)\n"
        "            except OSError:\n                pass",
        "tests/simulation/test_disk_accidents.py -k sync_that_fails",
    ),
    Mutant(
        "a-flipped-bit-is-served", "journal/frame.py", "if crc32(view[start:end]) != header.payload_crc:",
        "if False:", "tests/simulation/test_disk_accidents.py -k flipped",
    ),
    Mutant(
        "a-torn-tail-stops-the-start", "journal/recovery.py",
        "if state.fault and (state.proven or not last):", "if state.fault:",
        "tests/simulation/test_disk_accidents.py -k cut_by_a_kill",
    ),
    Mutant(
        "memory-alone-after-an-error", "journal/committer.py",
        "                self._fail(failure)\n                return\n", "",
        "tests/simulation/test_disk_accidents.py -k memory_alone",
    ),
    # -- a start -------------------------------------------------------------------------------------
    Mutant(
        "an-end-waits-for-the-next-task-of-its-id", "core/engine.py",
        "            if self._ends.pop(key, None) is not None:\n                self.table.pop(key)",
        "            if key in self._ends:\n                self.table.pop(key)", "tests/core/test_replay.py",
    ),
    Mutant(
        "an-end-of-nobody-waits", "core/engine.py", "elif self.table.get(key) is not None:", "else:",
        "tests/core/test_replay.py",
    ),
    Mutant(
        "an-end-outlives-a-new-version", "core/engine.py",
        "        if self._replaying:\n            self._ends.pop(key, None)", "        pass",
        "tests/core/test_replay.py",
    ),
    Mutant(
        "an-end-outlives-a-copy", "core/engine.py",
        "            self.table[key] = row\n            self._ends.pop(key, None)",
        "            self.table[key] = row", "tests/core/test_replay.py",
    ),
    Mutant(
        "ends-of-copies-keep-no-order", "core/engine.py", "self._ends_copied = True", "pass",
        "tests/core/test_engine_model.py",
    ),
    Mutant(
        "an-expiry-is-lost-in-a-start", "core/store.py", "and seen.expiry_ns is None", "and True",
        "tests/core/test_replay.py",
    ),
    # -- the wheel -----------------------------------------------------------------------------------
    Mutant(
        "one-bucket-per-wake-up", "core/wheel.py",
        "return self._scan()\n        for tick in range(self._cursor_tick + 1, now_tick + 1):",
        "return self._scan()\n        for tick in range(now_tick, now_tick + 1):",
        "tests/core/test_wheel.py -k late_wake",
    ),
    Mutant(
        "round-early", "core/wheel.py", "if deadline_ns > now_ns:",
        "if deadline_ns > now_ns + self._tick_ns:",
        "tests/core/test_wheel.py -k boundary",
    ),
    Mutant(
        "free-nothing-on-cancel", "core/store.py", "                self.elapsed.cancel(key, elapsed_ns)",
        "                pass", "tests/core/test_transitions.py tests/core/test_control.py",
    ),
    Mutant(
        "a-tick-late", "core/wheel.py", "wake_ns = min(wake_ns, tick * self._tick_ns)\n                break",
        "wake_ns = min(wake_ns, (tick + 1) * self._tick_ns)\n                break",
        "tests/core/test_wheel.py -k own_instant",
    ),
    # -- rules ---------------------------------------------------------------------------------------
    Mutant(
        "a-web-page-commands-the-daemon", "server/connection.py", 'first[:1] != b"{"', 'b" HTTP/" in first',
        "tests/server/test_first_bytes.py",
    ),
    Mutant(
        "a-field-that-stands-twice-counts-once", "protocol/twice.py",
        """raw.count(b",") != max(0""", """raw.count(b",") < max(0""",
        "tests/protocol/test_twice.py",
    ),
    Mutant(
        "a-run-takes-a-field-that-stands-twice", "core/schedule_batch.py",
        """whole.count(b",") != _commas""", """whole.count(b",") < _commas""",
        "tests/protocol/test_twice.py -k run", times=2,
    ),
    Mutant(
        "import-takes-a-field-that-stands-twice", "cli/import_tasks.py", "dict(check_names(line))",
        "msgspec.json.decode(line, type=dict[str, msgspec.Raw])", "tests/cli/test_import_lines.py",
    ),
    Mutant(
        "a-host-has-any-character", "protocol/hosts.py", """r"[^A-Za-z0-9._~-]").search""",
        """r"[^!-~]").search""", "tests/protocol/test_hosts.py",
    ),
    Mutant(
        "a-revoked-token-works-on", "server/scans.py",
        "            grant = _granted(command, visitor)\n            sees =",
        "            grant = None\n            sees =", "tests/server/test_rights_in_slices.py",
    ),
    Mutant(
        "one-attempt-too-many", "protocol/retry.py", "if failed >= plan.attempts:",
        "if failed > plan.attempts:",
        "tests/protocol/test_retry.py",
    ),
    Mutant(
        "a-delay-rounded-down", "protocol/retry.py",
        "_ceil_div(plan.nominal_ms(failed) * parts, _PERMILLE * CHANCE_MAX)",
        "plan.nominal_ms(failed) * parts // (_PERMILLE * CHANCE_MAX)", "tests/protocol/test_retry.py",
    ),
    Mutant(
        "expiry-is-ignored", "core/outcome.py",
        "if _expired(task, now):\n        return end(", "if False:\n        return end(",
        "tests/core/test_outcome.py tests/core/test_transitions.py",
    ),
    Mutant(
        "not-yet-counts-as-failed", "core/outcome.py", "return 0, polls, poll_",
        "return sent.failures + 1, polls, poll_",
        "tests/core/test_outcome.py",
    ),
    Mutant(
        "stop-is-not-heard", "core/outcome.py", "if answer.stop or answer.status == GONE",
        "if answer.status == GONE",
        "tests/core/test_outcome.py",
    ),
    Mutant(
        "an-end-without-its-hook", "core/outcome.py",
        "return [ended, r.Scheduled(hook_key, now.wall_ms, hook)]", "return [ended]",
        "tests/core/test_hooks.py",
    ),
    Mutant(
        "a-cancel-calls-a-hook", "core/outcome.py",
        "url = None if state is State.CANCELLED else task.on_done",
        "url = task.on_done", "tests/core/test_hooks.py tests/core/test_control.py",
    ),
    Mutant(
        "other-content-is-a-duplicate", "core/schedule.py", "content_of(known) != digest(task)", "False",
        "tests/core/test_schedule.py tests/protocol/test_ids.py",
    ),
    Mutant(
        "retry-after-0-hammers", "core/outcome.py",
        "max(answer.retry_after_ms, min(wait_ms, RETRY_AFTER_LEAST_MS))",
        "answer.retry_after_ms", "tests/core/test_outcome.py",
    ),
    Mutant(
        "a-second-life-has-the-webhook-id-of-the-first", "protocol/ids.py",
        "(journal_id, key.encode(), born_lsn, revision)", "(journal_id, key.encode(), 0, revision)",
        "tests/protocol/test_ids.py",
    ),
    Mutant(
        "a-finish-found-at-recovery-has-no-hook", "core/outcome.py",
        "return end(engine, key, task, State.DONE, now, lsn, finish_reply=task.stop_reply)",
        "return end(engine, key, task, State.DONE, now, lsn, finish_reply=task.stop_reply)[:1]",
        "tests/core/test_outcome.py tests/core/test_hooks.py",
    ),
    Mutant(
        "an-expiry-found-at-recovery-is-dropped-in-silence", "core/outcome.py",
        'State.EXPIRED, now, lsn, reason="expired")\n    if task.state == _SCHEDULED',
        'State.EXPIRED, now, lsn, reason="expired")[:1]\n    if task.state == _SCHEDULED',
        "tests/core/test_outcome.py tests/core/test_hooks.py",
    ),
    Mutant(
        "ended-tasks-are-kept-for-ever", "core/outcome.py",
        "return [r.Forgotten([key], now.wall_ms)] if engine.forget_ns(task) <= now.elapsed_ns else None",
        "return None", "tests/core/test_retention.py",
    ),
    Mutant(
        "the-hook-has-the-rule-of-its-queue", "core/outcome.py",
        "url, body=body, created_ms=now.wall_ms", "url, retry='none', body=body, created_ms=now.wall_ms",
        "tests/core/test_hooks.py",
    ),
    Mutant(
        "signed-with-the-first-secret-only", "protocol/ids.py", "for key in keys)",
        "for key in list(keys)[:1])",
        "tests/protocol/test_signature.py",
    ),
    Mutant(
        "replace-keeps-the-webhook-id", "core/schedule.py", "known.version + 1, known.revision + 1",
        "known.version + 1, known.revision", "tests/protocol/test_ids.py tests/core/test_schedule.py",
    ),
    Mutant(
        "if-version-is-ignored", "core/schedule.py",
        "if if_version is not None and if_version != task.version:", "if False:",
        "tests/core/test_schedule.py tests/core/test_control.py",
    ),
    Mutant(
        "one-task-too-many", "core/schedule.py", "if engine.live >= limits.tasks_max:",
        "if engine.live > limits.tasks_max:", "tests/core/test_schedule.py",
    ),
    Mutant(
        "seconds-are-taken", "protocol/units.py", "value_ms < SECONDS_BELOW <= now_ms:",
        "value_ms < SECONDS_BELOW // 100 <= now_ms:", "tests/protocol/test_seconds.py",
    ),
    Mutant(
        "an-unset-clock-refuses-instants", "protocol/units.py", "value_ms < SECONDS_BELOW <= now_ms:",
        "value_ms < SECONDS_BELOW:", "tests/protocol/test_seconds.py",
    ),
    Mutant(
        "stored-instants-are-checked", "protocol/units.py", "if 0 <= value_ms <= INSTANT_MS_MAX:",
        "if SECONDS_BELOW <= value_ms <= INSTANT_MS_MAX:", "tests/daemon/test_old_values.py",
    ),
    Mutant(
        "stored-hooks-are-checked", "core/schedule.py",
        'if command.on_dead is not None:\n        policy.check_target(command.on_dead, "on_dead")',
        'if task.on_dead is not None:\n        policy.check_target(task.on_dead, "on_dead")',
        "tests/daemon/test_old_values.py",
    ),
    Mutant(
        "an-address-with-a-dot-is-a-name", "protocol/hosts.py", "if name != host and ends_in_number(name):",
        "if False:", "tests/protocol/test_hosts.py",
    ),
    Mutant(
        "hook-ids-pass-in-a-run", "core/schedule_batch.py",
        'or (("/done/" in text or "/dead/" in text) and any(map(is_hook_id, ids)))', "or False",
        "tests/protocol/test_hook_ids.py tests/core/test_schedule_batch.py",
    ),
    # -- delivery ------------------------------------------------------------------------------------
    Mutant(
        "resend-after-a-reply-began", "delivery/transport.py", 'if error.kind != "reset" or kept.answered:',
        'if error.kind != "reset":', "tests/delivery/test_transport.py",
    ),
    Mutant(
        "what-came-unasked-is-the-next-reply", "delivery/http_connection.py",
        "if not self._arrivals.poll(0):",
        "if True:", "tests/delivery/test_transport.py tests/delivery/test_transport_hostile.py",
    ),
    Mutant(
        "any-coding-is-chunked", "delivery/oddhead.py", 'if codings and codings != [b"chunked"]:',
        "if False:", "tests/delivery/test_transport_hostile.py -k odd_head_whose_end_is_a_guess",
    ),
    Mutant(
        "an-error-hides-the-status", "delivery/callback.py", "if problem.reply is not None:", "if False:",
        "tests/delivery/test_callback.py -k what_had_come",
    ),
    Mutant(
        "a-cut-tls-stream-is-whole", "delivery/http_connection.py", "context.options &= ~ssl.OP_IGNORE",
        "context.options |= ssl.OP_IGNORE", "tests/delivery/test_transport_tls.py -k cut_stream",
    ),
    Mutant(
        "a-process-that-stood-still-is-late", "runtime/loop_clock.py", "self._read_s) > STILL_S",
        "self._read_s) > 1e9",
        "tests/runtime/test_loop_clock.py",
    ),
    Mutant(
        "a-paused-queue-goes-on", "delivery/entry.py", "if self._book.engine.paused(lane.name):",
        "if False:", "tests/delivery/test_dispatcher.py tests/delivery/test_outage.py",
    ),
    Mutant(
        "more-permits-than-there-are", "delivery/dispatcher.py", "while self.in_flight < self._concurrency:",
        "while True:", "tests/delivery/test_dispatcher.py",
    ),
    Mutant(
        "a-lane-in-vain-wakes-no-other", "delivery/lanes.py",
        "if not target.window.in_flight and target in self.over_share:", "if False:",
        "tests/delivery/test_dispatcher.py -k goes_in_vain",
    ),
    Mutant(
        "the-reserve-is-for-first-attempts-only", "delivery/window.py", "return max(few, ",
        "return max(0, ", "tests/delivery/test_dispatcher.py",
    ),
    Mutant(
        "a-reply-with-another-seq-is-taken", "client/pipeline.py",
        "line.endswith(mark := b',\"seq\":%d}' % call.seq)", "(mark := b',\"seq\":%d}' % call.seq)",
        "tests/client/test_wrong_replies.py -k another_seq",
    ),
    Mutant(
        "a-child-speaks-on-its-parents-connection", "client/sync_client.py", "        pid = os.getpid()\n",
        "        pid = 0\n", "tests/client/test_forks.py -k workers",
    ),
    Mutant(
        "an-inherited-stream-goes-on", "client/channel.py", "if os.getpid() != self.pid:", "if False:",
        "tests/client/test_forks.py -k iterators",
    ),
    Mutant(
        "what-a-stream-left-is-sent-later", "client/pipeline.py", "if not call.caller.left:", "if True:",
        "tests/client/test_wrong_replies.py -k left_sends",
    ),
    Mutant(
        "a-number-is-a-duration", "client/fields.py", "if not isinstance(value, bool) and value == 0:",
        "if True:", "tests/client/test_fields.py -k bare_number",
    ),
    Mutant(
        "nan-goes-out-as-null", "client/json_values.py", "return None if math.isfinite(value) else",
        "return None if True else", "tests/client/test_json_values.py -k another_value",
    ),
    # -- one client for a whole server ---------------------------------------------------------------
    Mutant(
        "threads-do-not-take-turns", "client/channel.py",
        "            with self._owned.lock:\n                self._exchange_alone",
        "            if True:\n                self._exchange_alone",
        "tests/sharing -k no_reply",
    ),
)  # fmt: skip


class Survived(Exception):
    """No test failed because of it: all passed, or hung, or the one that failed does so anyway."""


def copy_of_the_project(folder: Path) -> None:
    for name in ("wheeltimer", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)


def broken(text: str, mutant: Mutant) -> str:
    """``text`` with the mutant in it. Raises AssertionError where the code no longer is what it breaks."""
    found = text.count(mutant.old)
    assert found == mutant.times, f"{mutant.name}: its text stands {found} times in {mutant.file}"
    return text.replace(mutant.old, mutant.new)


def catch(mutant: Mutant) -> str:
    """The test that noticed. Raises Survived."""
    with tempfile.TemporaryDirectory(prefix="wheeltimer-mutant-") as name:
        folder = Path(name)
        copy_of_the_project(folder)
        path = folder / "wheeltimer" / mutant.file
        sound = path.read_text()
        path.write_text(broken(sound, mutant))
        code, said = _tests(folder, mutant.tests.split())
        if code == 0:
            raise Survived(f"{mutant.tests} let it pass")
        assert code == 1, f"{mutant.name}: pytest ended with {code}: {said[-2000:]}"
        (noticed,) = json.loads((folder / ".pytest_cache/v/cache/lastfailed").read_text())
        path.write_text(sound)
        # What was compiled may be of the same second and size.
        shutil.rmtree(path.parent / "__pycache__", ignore_errors=True)
        code, said = _tests(folder, [noticed])
        if code != 0:
            raise Survived(f"{noticed} fails without it too: {said[-2000:]}")
    return str(noticed)


def _tests(folder: Path, which: Sequence[str]) -> tuple[int, str]:
    """Pytest's exit code and output on the copy in ``folder``. Raises Survived where it hangs."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", *which]
    # Python looks in the working directory first, so the copy is what is imported.
    tests = subprocess.Popen(
        command, cwd=folder, env=os.environ | {"PYTHONPATH": str(folder)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = tests.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        os.killpg(tests.pid, signal.SIGKILL)  # daemons of a test that hangs go with it
        said, _ = tests.communicate()
        raise Survived(f"no test failed in {PATIENCE_S} s: {said[-500:]}") from None
    return tests.returncode, said


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="these only")
    parser.add_argument("--sample", type=int, help="so many, chosen by a seed")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    given = parser.parse_args()
    unknown = set(given.names) - {mutant.name for mutant in MUTANTS}
    if unknown:
        parser.error(f"no mutant is called {', '.join(sorted(unknown))}")
    chosen = [mutant for mutant in MUTANTS if not given.names or mutant.name in given.names]
    if given.sample:
        print(f"seed {given.seed}")
        chosen = random.Random(given.seed).sample(chosen, given.sample)
    survivors = 0
    print(f"{'mutant':50} {'file':24} {'seconds':>7}  caught by")
    for mutant in chosen:
        began_s = time.monotonic()
        try:
            by = catch(mutant)
        except Survived as why:
            by, survivors = f"SURVIVED: {why}", survivors + 1
        print(f"{mutant.name:50} {mutant.file:24} {time.monotonic() - began_s:7.1f}  {by}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
