"""Selects the files of a model's folder to upload, after strict checks, before anything is sent."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from cus.diffusion.lora import lora_facts
from cus.diffusion.parts import check_finite, check_parts
from cus.errors import InputError
from cus.hub.card import AdapterFacts, ModelFacts
from cus.hub.errors import INDEX, LORA, first_line
from cus.hub.publish import CARD, Upload
from cus.hub.stored import needed_files, open_model, weight_files

# A LoRA's settings that its card shows, in peft's names.
_TOLD = ("r", "lora_alpha", "lora_dropout", "target_modules")


def prepare(folder: Path) -> Upload:
    """Check a folder as strictly as loading does, in all its variants, and that every weight is finite.

    Only one tensor is loaded at a time. A folder with a LoRA but without a model's index counts as a LoRA's.

    Raises:
        InputError: anything that loading would refuse, or weights that are not finite.
    """
    if (folder / LORA).is_file() and not (folder / INDEX).exists():
        return _prepare_lora(folder)
    model = open_model(folder)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    variants = model.variants(names)
    files: list[str] = []
    for variant in variants:
        files += [name for name in needed_files(model, names, variant) if name not in files]
    parameters = {}
    precisions: set[str] = set()
    for variant in variants:
        for component, network in check_parts(model, folder, variant).items():
            parameters[component] = sum(parameter.numel() for parameter in network.parameters())
            precisions |= _check_finite(weight_files(folder, component, variant))
    sampling = model.index.get("sampling")
    facts = ModelFacts(
        parameters, sorted(precisions), sampling if isinstance(sampling, dict) else {}, [v for v in variants if v]
    )
    left_out = tuple(sorted(names - set(files) - {CARD}))
    return Upload(model, variants, {name: folder / name for name in files}, left_out, facts)


def _prepare_lora(folder: Path) -> Upload:
    """Check a LoRA's file and prepare to upload only that."""
    facts = lora_facts(folder / LORA)
    _check_finite([folder / LORA])
    told = {name: facts.settings[name] for name in _TOLD if facts.settings.get(name) not in (None, "")}
    told = told or {"r": ", ".join(map(str, sorted({rank for rank, _, _ in facts.layers.values()})))}
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return Upload(
        None,
        (None,),
        {LORA: folder / LORA},
        tuple(sorted(names - {LORA, CARD})),
        ModelFacts({"lora": facts.parameters}, facts.precisions, {}),
        AdapterFacts(len(facts.layers), told),
    )


def _check_finite(files: list[Path]) -> set[str]:
    """The number types in safetensors files. Raises InputError for the first tensor with NaN or infinity."""
    precisions = set()
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():
                    tensor = opened.get_tensor(name)
                    precisions.add(str(tensor.dtype).removeprefix("torch."))
                    check_finite(file, {name: tensor})
        except SafetensorError as error:
            raise InputError(f"{file} is damaged: {first_line(error)}; copy the model again") from error
    return precisions
