#!/bin/sh
# A walk through what loradoctor finds. Findings make its commands exit with 1; the walk goes on.
loradoctor=${1:-loradoctor}
cd "$(dirname "$0")/.." || exit 2

say() {
    printf '\n\033[1m== %s\033[0m\n' "$1"
}
run() {
    printf '$ loradoctor %s\n\n' "$*"
    "$loradoctor" "$@"
    printf '\n(exit code %s)\n' "$?"
}

if [ -n "$NO_COLOR" ] || [ ! -t 1 ]; then
    say() { printf '\n== %s\n' "$1"; }
fi

say "1. The bug that costs a week: an adapter loaded onto a model that already has one"
run lint examples/resume.py

say "2. Every script and notebook in fixtures/lint: each bug is marked, every unmarked line must stay silent"
run lint fixtures/lint --format concise

say "3. What can be repaired safely, as a patch"
run lint --diff examples fixtures/lint

say "4. A sound adapter against its base model: it loads, and merging keeps what it does"
run check fixtures/adapters/good_lora --base fixtures/base

say "5. What the bug of step 1 leaves on disk, seen in the files alone"
run check --no-base fixtures/adapters/nested

say "6. Why it matters and how to repair it"
run explain LD601

say "7. A defect that only merging shows: layers that share their weights, each with its own update"
run check fixtures/adapters/merge_layer_replication --base fixtures/base

say "8. Every adapter in fixtures/adapters, the broken ones too"
printf '$ loradoctor check --no-base fixtures/adapters/* --format concise\n\n'
"$loradoctor" check --no-base fixtures/adapters/* --format concise
printf '\n(exit code %s)\n' "$?"

printf '\nThat is all. Now your own: loradoctor lint path/to/code, loradoctor check path/to/adapter\n'
