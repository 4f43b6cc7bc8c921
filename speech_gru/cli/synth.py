"""`speech-gru synth`: a corpus of your own words from a speech synthesiser."""

from pathlib import Path
from typing import Annotated

import typer


def synth(
    words: Annotated[list[str], typer.Argument(metavar="WORDS", help="The words to tell apart.")],
    out: Annotated[Path, typer.Option(help="A new or empty folder for the corpus.", show_default=False)],
    voices: Annotated[int, typer.Option(help="Speakers; split into train, validation and test by voice.")] = 48,
    takes: Annotated[int, typer.Option(help="Clips of each word from each speaker.")] = 4,
    language: Annotated[str, typer.Option(help="Language (en, de ...) for all its accents, or one accent.")] = "en",
    seconds: Annotated[float, typer.Option(help="Length of a clip.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of everything random: the same seed makes the same files.")] = 0,
    unknown_words: Annotated[
        str | None,
        typer.Option(
            help='Further words, for _unknown_, separated by commas; "" for none. The default ones are English.',
            show_default=False,
        ),
    ] = None,
) -> None:
    """Make a corpus of your words with the synthesiser espeak-ng, to try them out before anyone has recorded them.

    Synthetic voices don't stand for people: record real speakers before you rely on the recogniser.

    [bold]Example:[/bold]  speech-gru synth lights music louder quieter --out my_words
    """
    from data_pipeline.synth import synthesize
    from speech_gru.cli.console import progress_bar

    with progress_bar("Speaking") as progress:
        made = synthesize(
            words,
            out,
            unknown_words=None if unknown_words is None else [w.strip() for w in unknown_words.split(",") if w.strip()],
            voices=voices,
            takes=takes,
            language=language,
            seed=seed,
            seconds=seconds,
            progress=progress,
        )
    _print_summary(made, out)


def _print_summary(made, out: Path) -> None:
    import json
    import shlex

    from rich.console import Console

    from speech_gru.cli.console import new_table

    table = new_table("split", "speakers", "clips")
    for split, clips in made.clips.items():
        table.add_row(split, str(made.speakers[split]), str(clips))
    table.add_section()
    table.add_row("all", str(sum(made.speakers.values())), str(sum(made.clips.values())))
    Console().print(table)
    print(f"{out}: {len(made.words)} words and {len(made.unknown_words)} more for _unknown_, {made.seconds:.0f} s")
    words = json.dumps(made.words, ensure_ascii=False)
    settings = (f"corpus.path={out}", f"corpus.shards={out}-shards", f"corpus.words={words}")
    print("Next: speech-gru prepare demo", *(f"--set {shlex.quote(setting)}" for setting in settings))
