"""Uploads a checked model's safetensors, JSON and model card as one commit, and nothing else."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

from cus.errors import InputError
from cus.hub.card import AdapterFacts, CardFacts, ModelFacts, card_text
from cus.hub.errors import LOG_IN, hub_errors
from cus.hub.fetch import parse_id
from cus.hub.stored import StoredModel
from cus.hub.target import Push

CARD = "README.md"


@dataclass(frozen=True)
class Upload:
    """A checked model, ready for upload.

    Attributes:
        model: stored model; None for a LoRA.
        variants: variants of the weights to upload; None is the standard one.
        files: path in the repository -> file.
        left_out: paths in the folder that are not uploaded.
        facts: a model's facts for the card.
        adapter: a LoRA's facts for the card.
    """

    model: StoredModel | None
    variants: tuple[str | None, ...]
    files: Mapping[str, Path]
    left_out: tuple[str, ...]
    facts: ModelFacts
    adapter: AdapterFacts | None = None


def parse_target(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """Repository and revision of "org/name" or "org/name@branch". Raises InputError for any other form."""
    found = parse_id(name, revision)
    if found is None or not re.fullmatch(r"[\w.-]+/[\w.-]+", found[0]):
        raise InputError(f"{name!r} cannot be a repository; write org/name, such as my-name/my-model")
    return found


def check_account(push: Push) -> str:
    """The name of the account. Raises InputError without a login, or if it cannot write to the repository."""
    if constants.HF_HUB_OFFLINE:
        raise InputError("HF_HUB_OFFLINE forbids asking the Hub; unset it to upload")
    api = HfApi(token=push.token)
    try:
        with hub_errors(push.repository, push.access):
            account = api.whoami()
    except InputError as error:
        if isinstance(error.__cause__, LocalTokenNotFoundError):
            raise InputError(f"nobody is logged in to the Hub: {LOG_IN} with a token that may write") from error
        if isinstance(error.__cause__, HfHubHTTPError) and error.__cause__.response.status_code == 401:
            raise InputError(
                f"the Hub does not accept the access token; {LOG_IN} with a token that may write"
            ) from error
        raise
    name, namespace = str(account["name"]), push.repository.partition("/")[0]
    own = {name, *(str(entry["name"]) for entry in account.get("orgs", []))}
    if namespace not in own and not push.create_pr:
        raise InputError(
            f"{name} cannot write to {push.repository}: {namespace} is none of {', '.join(sorted(own))}; name another "
            "repository, or log in with another account"
        )
    return name


def upload(prepared: Upload, push: Push, card: str | None = None) -> str:
    """Upload a checked model and its card to a repository as one commit.

    The same commit removes old weights of the same variants that are not among the new files: otherwise loading would
    prefer an older index of shards.

    Args:
        prepared: checked model from `cus.diffusion.uploads.prepare`.
        push: target of the upload.
        card: text of README.md; None writes one unless the repository already has one.

    Returns:
        The URL of the model, of its branch, or of the proposal.

    Raises:
        InputError: no access, a repository that is public but must be private, or a failed transfer.
    """
    check_account(push)
    api = HfApi(token=push.token)
    with hub_errors(push.repository, push.access):
        # A proposal needs an existing repository.
        if not push.create_pr:
            api.create_repo(push.repository, private=push.private, exist_ok=True)
        there = api.model_info(push.repository)
        if push.private and not there.private:
            raise InputError(
                f"{push.repository} exists and is public; make it private in its settings, or leave --private out"
            )
        branch = push.revision not in (None, constants.DEFAULT_REVISION)
        if branch and not push.create_pr:
            api.create_branch(push.repository, branch=str(push.revision), exist_ok=True)
        held = set(api.list_repo_files(push.repository, revision=push.revision))
        if card is None and CARD not in held:
            card = card_text(CardFacts(push.repository, prepared.facts, adapter=prepared.adapter))
        operations: list[Any] = [CommitOperationAdd(name, str(file)) for name, file in prepared.files.items()]
        operations += [CommitOperationAdd(CARD, card.encode())] if card is not None else []
        earlier = prepared.model.weight_names(held, prepared.variants) if prepared.model is not None else set()
        operations += [CommitOperationDelete(name) for name in sorted(earlier - set(prepared.files))]
        commit = api.create_commit(
            push.repository,
            operations,
            commit_message=push.message,
            revision=push.revision,
            create_pr=push.create_pr,
        )
    if push.create_pr and commit.pr_url:
        return commit.pr_url
    page = f"{constants.ENDPOINT}/{push.repository}"
    return f"{page}/tree/{push.revision}" if branch else page
