"""`speech-gru summary`: what became of a run, in one table."""

import json as json_format

from speech_gru.cli.options import JSON, RUN


def summary(run: RUN, json: JSON = False):
    """Show a finished run in one table: accuracy, parameters, the exported file's size and latency, and the pictures.

    [bold]Example:[/bold]  speech-gru summary runs/demo
    """
    from speech_gru.cli.console import new_table, print_table
    from speech_gru.quiet import start_tensorflow

    start_tensorflow()
    from speech_gru.summary import summarize_run

    found = summarize_run(run)
    if json:
        print(json_format.dumps(found, ensure_ascii=False))
        return
    table = new_table(f"run {run.resolve().name}", "")
    for split, figures in found["splits"].items():
        low, high = figures["accuracy_interval"]
        shown = f"{figures['accuracy']:.2%} of {figures['clips']} clips (95 % interval {low:.1%} to {high:.1%})"
        table.add_row(f"{split} accuracy", shown)
    table.add_row("labels", str(len(found["labels"])))
    table.add_row("parameters", f"{found['parameters']:,}")
    table.add_row("multiply-adds a clip", f"{found['multiply_adds']:,}")
    if found["tflite"]:
        table.add_row("file", f"{found['tflite']['file']}, {found['tflite']['bytes'] / 1e3:,.0f} KB")
        table.add_row("latency a clip, one thread", f"{found['tflite']['latency_ms']:.2f} ms (median)")
    for picture in found["pictures"]:
        table.add_row("picture", picture)
    print_table(table)
