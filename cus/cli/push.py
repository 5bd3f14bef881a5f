"""`cus-push`: a model to the Hugging Face Hub, with a model card of what is known about it."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cus.cli.command import CommandParser, run_parser
from cus.cli.console import ConsoleProgress, add_output_options
from cus.errors import InputError
from cus.files import keep_copy, write_text

if TYPE_CHECKING:
    from cus.hub.publish import Upload

DESCRIPTION = """\
Upload a model folder (an export of train/*.py, or what cus-convert wrote) to the Hugging Face Hub: its safetensors,
its JSON files and a model card, nothing else. The folder is checked as strictly as loading checks it, and weights that
are not numbers are refused. Log in first: hf auth login.
"""
EPILOG = """\
the card:
  README.md in FOLDER is uploaded as it is. Without one it is written there, from the model, the configurations of
  --run and the numbers of --results: what they do not say, the card does not say. Edit it as you like before uploading.
  --new-card writes it anew and keeps the earlier one as README.md.bak-1, -2, ...; those are not uploaded.

examples:
  cus-push runs/unet/export org/name --run runs/unet --results eval/fountain --dry-run
  cus-push runs/unet/export org/name --private
  cus-push runs/unet/export org/name --revision v2 --message "Trained for longer"
"""


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = CommandParser("cus-push", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the model, as save_pretrained writes it")
    parser.add_argument("repository", metavar="org/name", help="where it goes; made where it is not there")
    where = parser.add_argument_group("repository")
    where.add_argument("--private", action="store_true", default=None, help="only you and your organisation see it")
    where.add_argument("--revision", metavar="BRANCH", help="branch, made where it is not there (default: main)")
    where.add_argument("--message", default="Upload CloseUpShotPipeline", metavar="TEXT", help="of the commit")
    where.add_argument("--create-pr", action="store_true", help="propose the change instead of making it")
    card = parser.add_argument_group("model card")
    card.add_argument("--run", type=Path, metavar="RUN", help="training run that exported the model (its out= folder)")
    card.add_argument(
        "--results",
        type=Path,
        nargs="+",
        default=[],
        metavar="EVAL",
        help="folders that cus-eval filled for this model",
    )
    card.add_argument("--license", default="", metavar="ID", help="such as apache-2.0 (default: not stated)")
    card.add_argument(
        "--base-model",
        nargs="+",
        default=[],
        metavar="org/name",
        help="what it was trained from, beside what --run says",
    )
    card.add_argument(
        "--new-card",
        action="store_true",
        help="write README.md anew where there is one, which stays as README.md.bak-1",
    )
    parser.add_argument("--dry-run", action="store_true", help="check, write the card and list the files; no network")
    add_output_options(parser)
    return parser


def push(arguments: argparse.Namespace) -> None:
    """Run with parsed options. Raises InputError."""
    from diffusers.utils import logging

    from cus.diffusion.uploads import prepare
    from cus.hub.publish import CARD, Push, check_account, parse_target, upload

    # Its warnings speak of configuration defaults; what is wrong with a model is refused below.
    logging.set_verbosity_error()
    if not arguments.folder.is_dir():
        raise InputError(f"no such folder: {arguments.folder}; name a folder with a model_index.json")
    repository, revision = parse_target(arguments.repository, arguments.revision)
    target = Push(repository, revision, arguments.private, arguments.message, create_pr=arguments.create_pr)
    card = arguments.folder / CARD
    asked = arguments.run is not None or arguments.results or arguments.license or arguments.base_model
    if card.exists() and asked and not arguments.new_card:
        raise InputError(f"{card} is there already and is uploaded as it is; --new-card writes it anew")
    progress = ConsoleProgress.of(arguments)
    if not arguments.dry_run:
        progress.say(f"logged in as {check_account(target)}")
    prepared = prepare(arguments.folder)
    if arguments.new_card or not card.exists():
        _write_card(card, _card_text(arguments, repository, prepared), progress)
    _list_files(prepared, card, progress)
    if arguments.dry_run:
        progress.done(f"nothing was uploaded to {repository}: --dry-run", repository=repository, url=None)
        return
    url = upload(prepared, target, _checked_card(card))
    progress.done(url, repository=repository, url=url)


def _write_card(card: Path, text: str, progress: ConsoleProgress) -> None:
    """Write a card; one that was there may hold words of the user's, and is kept under another name."""
    kept = keep_copy(card)
    write_text(card, text, "copy the model to a folder of your own")
    progress.say(f"wrote {card}" + (f"; the earlier one is now {kept.name}" if kept is not None else ""))


def _card_text(arguments: argparse.Namespace, repository: str, prepared: "Upload") -> str:
    from cus.evaluation.published import read_tables
    from cus.hub.card import CardFacts, card_text
    from cus.hub.fetch import parse_id
    from cus.hub.stored import local_folder
    from cus.training.published import TrainingFacts, check_export, read_training

    training = TrainingFacts((), ())
    if arguments.run is not None:
        check_export(arguments.run, arguments.folder)
        training = read_training(arguments.run)

    def is_model(name: str) -> bool:
        folder = local_folder(name)
        found = None if folder.exists() else parse_id(name)
        return found[0] == repository if found else folder.resolve() == arguments.folder.resolve()

    tables = [table for folder in arguments.results for table in read_tables(folder, is_model)]
    bases = tuple(dict.fromkeys([*arguments.base_model, *training.base_model]))
    return card_text(CardFacts(repository, prepared.facts, arguments.license, bases, training.stages, tables))


def _checked_card(path: Path) -> str:
    """The card's text. Raises InputError where its header is not one that the Hub takes."""
    import yaml
    from huggingface_hub import ModelCard

    try:
        return str(ModelCard(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path} is no model card: {str(error).splitlines()[0]}; mend its header") from error


def _list_files(prepared: "Upload", card: Path, progress: ConsoleProgress) -> None:
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
    """Entry point; returns the exit status, see `run_command`."""
    return run_parser(build_parser, push, argv)


if __name__ == "__main__":
    sys.exit(main())
