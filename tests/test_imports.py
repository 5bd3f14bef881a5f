"""The layers of docs/conventions.md, read off the source; an import for types alone counts like any other."""

import ast
import functools
import graphlib
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import cus

PACKAGE = Path(cus.__file__).parent
ALLOWED = {
    "cameras": {"cameras"},
    "models": {"models"},
    "scene": {"cameras"},
    "estimators": {"cameras", "scene", "hub", "estimators"},
    "conditioning": {"cameras", "scene", "conditioning"},
    "closeup": {"cameras", "scene", "conditioning", "diffusion"},
    "splats": {"cameras", "scene", "splats"},
    "refinement": {"cameras", "closeup", "scene", "conditioning", "diffusion", "hub", "splats", "refinement"},
    "datasets": {"cameras", "scene", "datasets", "conditioning", "estimators", "splats"},
    "diffusion": {"models", "hub", "diffusion"},
    "lvdm": {"models", "hub", "diffusion", "lvdm"},
    "checkpoints": {"lvdm"},
    "hub": {"hub"},
    "report": {"report"},
    "viewer": {"cameras", "datasets", "splats", "report", "viewer"},
    "inference": {
        "cameras",
        "closeup",
        "conditioning",
        "datasets",
        "diffusion",
        "estimators",
        "inference",
        "models",
        "refinement",
        "report",
        "scene",
        "splats",
        "viewer",
    },
    "training": {
        "cameras",
        "closeup",
        "conditioning",
        "datasets",
        "diffusion",
        "estimators",
        "hub",
        "inference",
        "models",
        "splats",
        "training",
    },
    "kernels": {"kernels"},
    "completion": {"completion"},
    "choices": set(),
    "errors": set(),
    "files": set(),
    "folder_lock": set(),
    "folder_record": {"folder_lock"},
    "lazy": set(),
    "limits": set(),
    "options": set(),
    "output_folder": {"files", "folder_lock", "folder_record"},
    "runtime": set(),
}
EVERYWHERE = {
    "choices",
    "completion",
    "errors",
    "files",
    "folder_lock",
    "kernels",
    "lazy",
    "limits",
    "options",
    "output_folder",
    "remote",
    "runtime",
    "tensor_files",
}
ONE_FILE = (
    "bitsandbytes",
    "peft",
    "gsplat",
    "open_clip",
    "pillow_heif",
    "vggt",
    "dust3r",
    "filelock",
    "fsspec",
    "pytorch3d",
    "pyiqa",
    "torchmetrics",
    "viser",
    "wandb",
)


def imported_names(tree: ast.AST, types: bool = False) -> set[str]:
    """Dotted module names imported anywhere in a file; those under `if TYPE_CHECKING` only with `types`."""
    names: set[str] = set()
    pending = [tree]
    while pending:
        node = pending.pop()
        if not types and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names if node.module == "cus")
        pending.extend(ast.iter_child_nodes(node))
    return names


def test_imports_for_types_alone_are_told_from_others() -> None:
    tree = ast.parse("import a\nif TYPE_CHECKING:\n    from b.c import d\nelse:\n    import e")
    assert imported_names(tree) == {"a", "e"} and imported_names(tree, types=True) == {"a", "b.c", "e"}


@functools.cache
def sources(types: bool = False) -> dict[str, set[str]]:
    return {
        path.relative_to(PACKAGE).as_posix(): imported_names(ast.parse(path.read_text()), types)
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def test_imports_run_one_way():
    wrong = []
    for file, names in sources(types=True).items():
        layer = file.split("/")[0].removesuffix(".py")
        used = {name.split(".")[1] for name in names if name.startswith("cus.")}
        if "cli" in used and layer != "cli":
            wrong.append(f"{file} imports cli")
        if "evaluation" in used and layer not in ("cli", "evaluation"):
            wrong.append(f"{file} imports evaluation")
        if any(name.split(".")[0] == "procedural" for name in names):
            wrong.append(f"{file} imports procedural, which is not installed")
        if layer in ALLOWED:  # cli and evaluation may use all
            wrong += [f"{file} imports {other}" for other in used - ALLOWED[layer] - EVERYWHERE]
    assert not wrong


@pytest.mark.parametrize("folder", [PACKAGE, PACKAGE.parent / "procedural"])
def test_no_modules_import_each_other_in_a_circle(folder: Path) -> None:
    modules = {path: ".".join(path.relative_to(folder.parent).with_suffix("").parts) for path in folder.rglob("*.py")}
    known = {name.removesuffix(".__init__") for name in modules.values()}
    graph = {}
    for path, name in modules.items():
        if path.name != "__init__.py":  # these only name what their modules hold
            used = imported_names(ast.parse(path.read_text()), types=True)
            graph[name] = {other for other in used if other in known and other != name}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_optional_packages_are_imported_in_one_file_each():
    for package in ONE_FILE:
        files = [file for file, names in sources().items() if any(n.split(".")[0] == package for n in names)]
        assert len(files) <= 1, f"{package} is imported in {files}"


def test_pycolmap_is_imported_where_models_are_read_and_where_poses_are_found():
    files = {file for file, names in sources().items() if any(n.split(".")[0] == "pycolmap" for n in names)}
    assert files == {"cameras/colmap.py", "cameras/lenses.py", "estimators/sfm.py", "training/pose_scene.py"}
    for file in files:
        # Loading it takes signals over.
        tree = ast.parse((PACKAGE / file).read_text())
        blocks = [node for node in ast.walk(tree) if isinstance(node, ast.With)]
        kept = [b for b in blocks if ast.unparse(b.items[0].context_expr) == "signal_handlers_kept()"]
        assert sum("pycolmap" in imported_names(b) for b in kept) == (PACKAGE / file).read_text().count(
            "import pycolmap"
        )


def test_importing_the_package_pulls_in_nothing_heavy() -> None:
    program = "import sys, cus; print({name.partition('.')[0] for name in sys.modules} & set(sys.argv[1:]))"
    heavy = ["torch", "numpy", "numba", "cv2", "scipy", "diffusers", "pycolmap"]
    ran = subprocess.run([sys.executable, "-c", program, *heavy], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


def test_the_package_gives_the_names_of_a_close_up() -> None:
    for name in cus.__all__:
        assert name in dir(cus) and getattr(cus, name).__module__.startswith("cus.")
        assert getattr(cus, name) is getattr(importlib.import_module(cus._HOMES[name]), name)
    with pytest.raises(AttributeError, match="no attribute 'close_upp'"):
        cus.close_upp  # noqa: B018
