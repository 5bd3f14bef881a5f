"""`cus-push`: uploads a model to the Hugging Face Hub, with a model card of the known facts."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional

from cus.cli.command import run_command
from cus.cli.reading import Common
from cus.errors import InputError
from cus.files import keep_copy, write_text
from cus.hub.target import Push
from cus.options import Flag, option

if TYPE_CHECKING:
    from cus.cli.console import ConsoleProgress
    from cus.hub.publish import Upload

EPILOG = """\
the folder:
  An export of train/*.py, or what cus-convert wrote. Its safetensors, its JSON files and a model card are uploaded,
  nothing else. It is checked as strictly as loading checks it, and weights that are not numbers are refused.
  Of a LoRA (pytorch_lora_weights.safetensors), that file and a card are uploaded; --base-model names what it is for.

the card:
  README.md in FOLDER is uploaded unchanged. If there is none, it is written there from the model, the configurations of
  --run and the numbers of --results, and contains nothing else. Edit it as you like before uploading.
  --new-card writes a new one and keeps the earlier one as README.md.bak-1, -2, ...; those are not uploaded.

examples:
  cus-push runs/unet/export org/name --run runs/unet --results eval/fountain --dry-run
  cus-push runs/unet/export org/name --private
  cus-push runs/lora/export org/name-lora --run runs/lora --base-model org/name
  cus-push runs/unet/export org/name --revision v2 --message "Trained for longer"
"""


@dataclass(frozen=True)
class CardOptions:
    """The contents of the model card.

    Attributes:
        run: training run that exported the model (its out= folder)
        results: folders that cus-eval filled for this model
        license: such as apache-2.0 (default: not stated)
        base_model: models that training started from, in addition to what --run says
        new_card: write README.md anew; an existing one is kept as README.md.bak-1
    """

    run: Annotated[Path | None, option("RUN")] = None
    results: Annotated[tuple[Path, ...], option("EVAL [EVAL ...]")] = ()
    license: Annotated[str, option("ID")] = ""
    base_model: Annotated[tuple[str, ...], option("org/name [org/name ...]")] = ()
    new_card: Flag = False


@dataclass(frozen=True)
class PushOptions:
    """Upload a model folder to the Hugging Face Hub. Log in first: hf auth login.

    Attributes:
        folder: the model, as written by save_pretrained
        repository: target on the Hub
        card: the contents of the model card
        dry_run: check, write the card and list the files; no network
        common: options of every command
    """

    folder: Annotated[Path, Positional, option("FOLDER")]
    repository: Push
    card: CardOptions = CardOptions()
    dry_run: Flag = False
    common: Common = Common()


def push(options: PushOptions, progress: "ConsoleProgress") -> None:
    """Check the model, write its card and upload both. Raises InputError."""
    from diffusers.utils import logging

    from cus.diffusion.uploads import prepare
    from cus.hub.publish import CARD, check_account, parse_target, upload

    # The library's warnings concern configuration defaults; faulty models are refused below.
    logging.set_verbosity_error()
    if not options.folder.is_dir():
        raise InputError(f"no such folder: {options.folder}; name a folder with a model_index.json, or with a LoRA")
    repository, revision = parse_target(options.repository.repository, options.repository.revision)
    target = replace(options.repository, repository=repository, revision=revision)
    card = options.folder / CARD
    if card.exists() and replace(options.card, new_card=False) != CardOptions() and not options.card.new_card:
        raise InputError(f"{card} already exists and is uploaded unchanged; --new-card replaces it")
    if not options.dry_run:
        progress.say(f"logged in as {check_account(target)}")
    prepared = prepare(options.folder)
    if prepared.adapter is not None and target.message == Push(repository).message:
        target = replace(target, message="Upload LoRA")
    if options.card.new_card or not card.exists():
        _write_card(card, _card_text(options.card, options.folder, repository, prepared), progress)
    _list_files(prepared, card, progress)
    if options.dry_run:
        progress.done(f"nothing was uploaded to {repository}: --dry-run", repository=repository, url=None)
        return
    url = upload(prepared, target, _checked_card(card))
    progress.done(url, repository=repository, url=url)


def _write_card(card: Path, text: str, progress: "ConsoleProgress") -> None:
    """Write a card; an existing one may contain the user's text, and is kept under another name."""
    kept = keep_copy(card)
    write_text(card, text, "copy the model to a folder of your own")
    progress.say(f"wrote {card}" + (f"; the earlier one is now {kept.name}" if kept is not None else ""))


def _card_text(options: CardOptions, model: Path, repository: str, prepared: "Upload") -> str:
    from cus.evaluation.published import read_tables
    from cus.hub.card import CardFacts, card_text
    from cus.hub.fetch import parse_id
    from cus.hub.stored import local_folder, open_lora
    from cus.training.published import TrainingFacts, check_export, read_training

    training = TrainingFacts((), ())
    if options.run is not None:
        check_export(options.run, model)
        training = read_training(options.run)

    bases = tuple(dict.fromkeys([*options.base_model, *training.base_model]))
    if prepared.adapter is not None and not bases:
        raise InputError(
            "a LoRA is worth nothing without the model that it changes: name that with --base-model org/name"
        )

    def is_model(name: str) -> bool:
        folder = local_folder(name)
        if prepared.adapter is not None and folder.exists():
            with suppress(InputError):  # a whole model is not a LoRA
                folder = open_lora(folder).file.parent
        found = None if folder.exists() else parse_id(name)
        return found[0] == repository if found else folder.resolve() == model.resolve()

    tables = [table for folder in options.results for table in read_tables(folder, is_model)]
    facts = CardFacts(repository, prepared.facts, options.license, bases, training.stages, tables, prepared.adapter)
    return card_text(facts)


def _checked_card(path: Path) -> str:
    """The card's text. Raises InputError if the Hub would not accept its header."""
    import yaml
    from huggingface_hub import ModelCard

    try:
        return str(ModelCard(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path} is no model card: {str(error).splitlines()[0]}; mend its header") from error


def _list_files(prepared: "Upload", card: Path, progress: "ConsoleProgress") -> None:
    files = {card.name: card, **prepared.files}
    sizes = {name: file.stat().st_size for name, file in files.items()}
    for name, size in sizes.items():
        progress.say(f"{size:>14,}  {name}")
    progress.say(f"{sum(sizes.values()):>14,}  bytes in {len(sizes)} files")
    for name in prepared.left_out[:5]:
        progress.say(f" {name}", "left out", "yellow")
    if len(prepared.left_out) > 5:
        progress.say(f" {len(prepared.left_out) - 5} more files", "left out", "yellow")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status of `run_command`."""
    return run_command("cus-push", PushOptions, push, argv, epilog=EPILOG)


if __name__ == "__main__":
    sys.exit(main())
