"""Build clips of one frame from posed photographs: shrunk references, full-resolution crops of held-out ones.

    python data/make_cases.py out=runs/validation "scenes=[castle,door]" cases=4

They validate a training (`held_out=runs/validation`); where licences permit they may be trained on, too. The same
command again goes on where it stopped. `others=[hierarchical,low,high]` keeps the paper's warps beside the fused one.
"""

import sys

from cus.cli.scripts import Counter, run_script


def main(arguments: list[str], counter: Counter) -> None:
    """Build what is missing."""
    from cus.evaluation.case_clips import CaseClips, build
    from cus.training.scripts import settings_of

    build(settings_of(CaseClips, arguments), counter)


if __name__ == "__main__":
    sys.exit(run_script(main, "data/make_cases.py", __doc__, sys.argv[1:]))
