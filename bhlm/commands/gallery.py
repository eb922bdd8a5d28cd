"""models and compare: the published models."""

from typing import Annotated

import typer

from bhlm.commands.options import Json, Seed, app


@app.command("models")
def models_command(json: Json = None) -> int:
    """List the gallery of published models."""
    from bhlm.files import write_json
    from bhlm.sources.gallery import list_models

    models = list_models()
    for entry in models:
        print(f"{entry.name}\n    {entry.title}\n    {entry.formula}")
    if json:
        keys = ("name", "title", "citation", "formula", "method")
        write_json([{key: getattr(entry, key) for key in keys} for entry in models], json)
    return 0


@app.command("compare")
def compare_command(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL...", help="Gallery models; default: all.")
    ] = None,
    seed: Seed = 1,
    json: Json = None,
) -> int:
    """Reconcile every published model of the gallery, and print one table."""
    from bhlm.commands.gallery_table import compare_gallery, render_gallery
    from bhlm.files import write_json
    from bhlm.progress import show_progress

    with show_progress("gallery") as progress:
        table = compare_gallery(names, seed=seed, progress=progress)
    print(render_gallery(table))
    if json:
        write_json(table.to_dict(orient="index"), json)
    return 0 if table["verdict"].isin(["agree", "explained"]).all() else 1
