"""What of a model's folder may be uploaded: strict checks of every file, before anything is sent."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from cus.diffusion.parts import check_finite, check_parts
from cus.errors import InputError
from cus.hub.card import ModelFacts
from cus.hub.errors import first_line
from cus.hub.publish import CARD, Upload
from cus.hub.stored import needed_files, open_model, weight_files


def prepare(folder: Path) -> Upload:
    """Check a folder as strictly as loading does, in all its variants, and that every weight is a number.

    Nothing is loaded but one tensor at a time.

    Raises:
        InputError: what loading would refuse, or weights that are not finite.
    """
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


def _check_finite(files: list[Path]) -> set[str]:
    """The number formats in safetensors files. Raises InputError for the first tensor with a NaN or infinity."""
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
