"""`speech-gru prepare`: a corpus -> shards, manifest.csv and rejected.csv."""

from speech_gru.cli.options import CONFIG, SET


def prepare(config: CONFIG, settings: SET = ()):
    """Decode a corpus once into shards that training reads quickly.

    Clips that can't be used are set aside, with the reason in rejected.csv; the exit code is then 3. A second run
    decodes only what is new; an interrupted one goes on.

    [bold]Example:[/bold]  speech-gru prepare demo --set corpus.path=my_words --set corpus.shards=my_words-shards
    """
    from speech_gru.cli.console import print_counts, progress_bar
    from speech_gru.config import load_config
    from speech_gru.quiet import start_tensorflow

    corpus = load_config(config, settings).corpus
    start_tensorflow()
    from data_pipeline.prepare import prepare as prepare_shards

    with progress_bar("Preparing") as progress:
        prepared = prepare_shards(corpus, progress)
    print_counts(prepared.labels, prepared.counts)
    for note in prepared.notes:
        print(f"note: {note}")
    clips = sum(count.clips for count in prepared.counts.values())
    aside = f"; why: {corpus.shards / 'rejected.csv'}" if prepared.rejected else ""
    print(f"{corpus.shards}: {clips} clips ready, {prepared.new} were new, {len(prepared.rejected)} set aside{aside}")
    return 3 if prepared.rejected else 0
