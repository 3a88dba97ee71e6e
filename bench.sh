#!/bin/sh
# Runs every benchmark and writes .report/report.md, the figures as JSON and the plots beside it.
# Takes about half an hour; `./bench.sh --long` adds the endurance run, which takes a quarter of an hour more;
# `./bench.sh --quick` only shows that all of them run. PYTHON names an interpreter
# that has wheeltimer and its bench extra; without it .venv is used, and made where it is missing.
set -eu
cd "$(dirname "$0")"
if [ -z "${PYTHON:-}" ]; then
    PYTHON=.venv/bin/python
    if ! "$PYTHON" -c "import wheeltimer.daemon.run, matplotlib" 2>/dev/null; then
        python3 -m venv .venv
        "$PYTHON" -m pip install --quiet -e '.[bench]'
    fi
fi
names="accuracy schedule interference idle_clients hostile memory delivery backlog compaction"
case "${1:-}" in
    --long) names="$names endurance"; shift ;;
    --quick) names="$names endurance" ;;
esac
mkdir -p .report
rm -f .report/*.json .report/*.png .report/report.md
failed=
for name in $names; do
    strace=
    [ "$name" = schedule ] && strace=--strace
    "$PYTHON" -m benchmarks "$name" --out .report $strace "$@" || failed="$failed $name"
done
"$PYTHON" -m benchmarks.report .report
if [ -n "$failed" ]; then
    echo "did not finish:$failed" >&2
    exit 1
fi
