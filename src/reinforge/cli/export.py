"""`reinforge export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reinforge.cli.arguments import BundleFolder, Use
from reinforge.cli.output import Result
from reinforge.messages import mark


def export(
    bundle: BundleFolder,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="TARGET",
            help=mark(
                "onnx: a graph for onnxruntime and reinforge-edge; torch-export: a program for torch; executorch: one "
                "for small devices; gguf: a file for llama.cpp; container: a folder that builds an image; "
                "huggingface: a folder that transformers loads; peft: the adapter alone."
            ),
        ),
    ] = "huggingface",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FOLDER", help=mark("The new folder."))
    ] = None,
    use: Use = None,
) -> Result:
    """Write a bundle in the form that another program reads."""
    from reinforge.export.export import export as run

    return Result.of(run(bundle, to, output, use=use or ()))
