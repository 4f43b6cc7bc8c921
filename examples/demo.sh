#!/bin/sh
# The whole way, from nothing to a recognised word, with the commands that a user would type. `make demo` runs this.
# DATA: a folder of your own recordings, a folder a word; without it, eight words are synthesised.
set -eu

words="lights music radio timer louder quieter pause heating"
say() { printf '\n\033[1m$ speech-gru %s\033[0m\n' "$*"; speech-gru "$@"; }

if [ -n "${DATA:-}" ]; then
    corpus=$DATA chosen="" demo=demo/yours
else
    corpus=demo/corpus chosen=$(echo "$words" | sed 's/ /, /g') demo=demo
    # shellcheck disable=SC2086  # one argument a word
    [ -d "$corpus" ] || say synth $words --out "$corpus"
fi
experiment() {  # the same settings for both verbs
    verb=$1
    shift
    say "$verb" demo --set "corpus.path=$corpus" --set "corpus.shards=$demo/shards" --set "corpus.words=[$chosen]" "$@"
}

experiment prepare || [ $? -eq 3 ]  # 3: some clips were set aside, which the command has reported
# An earlier demo's run would be left as it is; one that was interrupted goes on.
[ ! -f "$demo/run/model.keras" ] || rm -r "$demo/run"
experiment train --out "$demo/run"
say export "$demo/run"
say evaluate "$demo/run/export/model.tflite"
spoken=$corpus/${words%% *}
[ -d "$spoken" ] || spoken=$corpus
clip=$(find -L "$spoken" -name '*.wav' -not -path '*/_*' | sort | head -n 1)
[ -z "$clip" ] || say recognize "$demo/run/export/model.tflite" "$clip" --top 3
say summary "$demo/run"
