"""`ftune chat`."""

from typing import Annotated

import typer


def run(
    target: Annotated[str, typer.Argument(help="A run folder, an adapter or a model.", show_default=False)],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME=VALUE", help="temperature, top_p, top_k (0: all), max_new_tokens.", show_default=False
        ),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FOLDER", help="One more adapter on the same base; repeatable.", show_default=False),
    ] = None,
    system: Annotated[str, typer.Option(help="The system text.", show_default=False)] = "",
    prompt: Annotated[str | None, typer.Option(help="Reply to this and end.", show_default=False)] = None,
    json: Annotated[bool, typer.Option("--json", help="Replies as JSON lines, with their facts.")] = False,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always the likeliest token: temperature=0.")] = False,
    seed: Annotated[int | None, typer.Option(help="The same replies each time.", show_default="none")] = None,
    plain: Annotated[
        bool | None,
        typer.Option("--plain/--chat", help="Continue texts, or use the chat template.", show_default="as trained"),
    ] = None,
) -> None:
    """Talk to a model and its adapters; piped lines are answered one by one.

    Replies are drawn as the model's generation_config.json says, else with temperature=0.7 top_p=0.9.

    Example: ftune chat runs/lora --system "Answer in one word."
    """
    from ftune.recipes.runs.chat import Asked, run_chat

    words, more = settings or (), adapter or ()
    run_chat(Asked(target, words, more, system, prompt, json, greedy, seed, plain))
