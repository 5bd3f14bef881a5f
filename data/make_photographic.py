"""Build close-up training clips from scenes of photographs, through the estimator and the fused conditioning.

    python data/make_photographic.py out=runs/clips photographs=photographs.json scenes=400

The manifest lists the photographs with their licences; `<out>/photographs-*.json` lists the ones used, for the model
card. The same command resumes where it stopped; several processes share the work with `part=0 parts=4`.

`recipe.others=[hierarchical,low,high]` adds the paper's warps to the fused one, for comparisons. With the same
settings, another out= and `coarse=runs/unet/export`, the same clips get structure images from that model's first pass.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `procedural` is not installed

from cus.cli.scripts import Counter, run_script


def main(arguments: list[str], counter: Counter) -> None:
    """Build missing clips."""
    from cus.training.scripts import settings_of
    from procedural.photographic_clips import PhotographicClips, build

    build(settings_of(PhotographicClips, arguments), counter)


if __name__ == "__main__":
    sys.exit(run_script(main, "data/make_photographic.py", __doc__, sys.argv[1:]))
