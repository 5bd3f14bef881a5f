"""The layers of docs/conventions.md, read off the source; imports under TYPE_CHECKING are types only, and free."""

import ast
import functools
from pathlib import Path

import cus

PACKAGE = Path(cus.__file__).parent
ALLOWED = {
    "cameras": {"cameras"},
    "models": {"models"},
    "estimators": {"cameras", "hub", "estimators"},
    "conditioning": {"cameras", "conditioning"},
    "splats": {"cameras", "splats"},
    "datasets": {"cameras", "datasets", "conditioning", "estimators"},
    "diffusion": {"models", "hub", "diffusion"},
    "lvdm": {"models", "hub", "diffusion", "lvdm"},
    "checkpoints": {"lvdm"},
    "hub": {"hub"},
    "report": {"report"},
    "viewer": {"cameras", "datasets", "splats", "report", "viewer"},
    "kernels": {"kernels"},
    "digests": set(),
    "errors": set(),
    "files": set(),
    "folder_lock": set(),
    "limits": set(),
    "output_folder": {"files", "folder_lock"},
    "runtime": set(),
}
EVERYWHERE = {"digests", "errors", "files", "folder_lock", "kernels", "limits", "output_folder", "runtime"}
ONE_FILE = (
    "gsplat",
    "open_clip",
    "pillow_heif",
    "vggt",
    "dust3r",
    "pytorch3d",
    "pyiqa",
    "torchmetrics",
    "viser",
    "wandb",
)


def imported_names(tree: ast.AST) -> set[str]:
    """Dotted module names imported anywhere in a file, except under `if TYPE_CHECKING`."""
    names: set[str] = set()
    pending = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
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


@functools.cache
def sources() -> dict[str, set[str]]:
    return {
        path.relative_to(PACKAGE).as_posix(): imported_names(ast.parse(path.read_text()))
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def test_imports_run_one_way():
    wrong = []
    for file, names in sources().items():
        layer = file.split("/")[0].removesuffix(".py")
        used = {name.split(".")[1] for name in names if name.startswith("cus.")}
        if "cli" in used and layer != "cli":
            wrong.append(f"{file} imports cli")
        if "evaluation" in used and layer not in ("cli", "evaluation"):
            wrong.append(f"{file} imports evaluation")
        if layer in ALLOWED:
            wrong += [f"{file} imports {other}" for other in used - ALLOWED[layer] - EVERYWHERE]
    assert not wrong


def test_optional_packages_are_imported_in_one_file_each():
    for package in ONE_FILE:
        files = [file for file, names in sources().items() if any(n.split(".")[0] == package for n in names)]
        assert len(files) <= 1, f"{package} is imported in {files}"


def test_pycolmap_is_imported_where_models_are_read_and_where_poses_are_found():
    files = {file for file, names in sources().items() if any(n.split(".")[0] == "pycolmap" for n in names)}
    assert files == {"cameras/colmap.py", "cameras/lenses.py", "estimators/sfm.py"}
    for file in files:
        # Loading it takes signals over.
        tree = ast.parse((PACKAGE / file).read_text())
        blocks = [node for node in ast.walk(tree) if isinstance(node, ast.With)]
        kept = [b for b in blocks if ast.unparse(b.items[0].context_expr) == "signal_handlers_kept()"]
        assert sum("pycolmap" in imported_names(b) for b in kept) == (PACKAGE / file).read_text().count(
            "import pycolmap"
        )


def test_importing_the_package_pulls_in_nothing_heavy():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    assert not imported_names(tree)
