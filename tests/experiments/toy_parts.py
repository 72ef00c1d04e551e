"""A toy of each kind of part as the list of places where it is written: new files, and lines put into others."""

from dataclasses import dataclass
from pathlib import Path

TOYS = Path(__file__).with_name("toys")


@dataclass(frozen=True)
class File:
    """A new file; `toy` is its text, in the folder of toys."""

    path: str
    toy: str

    def write(self, root: Path) -> None:
        """Refuses to take the place of another file."""
        with open(root / self.path, "x", encoding="utf-8") as file:
            file.write((TOYS / self.toy).read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Lines:
    """Lines that stand together in a file that is there, put `behind` a text that it has once."""

    path: str
    behind: str
    text: str

    def write(self, root: Path) -> None:
        """Raises: ValueError where the file does not have that text once."""
        path = root / self.path
        before = path.read_text(encoding="utf-8")
        if before.count(self.behind) != 1:
            raise ValueError(f"{self.path} has {self.behind!r} {before.count(self.behind)} times")
        path.write_text(before.replace(self.behind, self.behind + self.text), encoding="utf-8")


MEAN_DISTANCE = """\
    Measure(
        lambda generated, reference, seed, wanted: {
            "mean_distance": block_jackknife(
                [generated.features, reference.features],
                lambda a, b: float(np.linalg.norm(a.mean(0) - b.mean(0))),
                blocks=8,
            )
        },
        (_distance("mean_distance", "distance of means", AT_N),),
    ),
"""

PLACES: dict[str, tuple[File | Lines, ...]] = {
    "sampler": (
        File("ldm/samplers/damped.py", "damped.py"),
        Lines(
            "ldm/samplers/table.py",
            "from ldm.parts import checked, checked_options, look_up, options_of\n",
            "from ldm.samplers.damped import Damped\n",
        ),
        Lines("ldm/samplers/table.py", '    "unipc": UniPC,\n', '    "damped": Damped,\n'),
        File("conf/sampler/damped.yaml", "damped.yaml"),
    ),
    "regulariser": (
        File("ldm/first_stage/small.py", "small_latents.py"),
        Lines(
            "ldm/first_stage/build.py",
            "from ldm.first_stage.perceptual import PerceptualLoss\n",
            "from ldm.first_stage.small import SmallLatents\n",
        ),
        Lines("ldm/first_stage/build.py", '    "identity": IdentityFirstStage,\n', '    "small": SmallLatents,\n'),
        File("conf/ae/small.yaml", "small_latents.yaml"),
    ),
    "denoiser": (
        File("ldm/denoiser/stack.py", "stack.py"),
        Lines(
            "ldm/denoiser/table.py",
            "from ldm.denoiser.contract import Denoiser\n",
            "from ldm.denoiser.stack import StackOptions\n",
        ),
        Lines("ldm/denoiser/table.py", '    "unet": UNetOptions,\n', '    "stack": StackOptions,\n'),
        File("conf/denoiser/stack.yaml", "stack.yaml"),
        Lines("conf/scale/tiny.yaml", "\ndenoiser:\n", "  stack: {4: {width: 16}, 8: {width: 16}}\n"),
        Lines("conf/scale/cpu.yaml", "\ndenoiser:\n", "  stack: {4: {width: 64}, 8: {width: 96}}\n"),
        Lines("conf/scale/gpu.yaml", "\ndenoiser:\n", "  stack: {4: {width: 128}, 8: {width: 192}}\n"),
    ),
    "task": (
        File("experiments/conditions/mean_colour.py", "mean_colour.py"),
        Lines(
            "experiments/conditions/__init__.py",
            "from experiments.conditions.layout import LAYOUT\n",
            "from experiments.conditions.mean_colour import MEAN_COLOUR\n",
        ),
        Lines("experiments/conditions/__init__.py", "for kind in (CLASS_LABEL, ", "MEAN_COLOUR, "),
        File("conf/conditioning/mean_colour.yaml", "mean_colour.yaml"),
        Lines("conf/scale/tiny.yaml", "\nconditioning:\n", "  mean_colour: {dim: 16}\n"),
    ),
    "metric": (
        Lines(
            "ldm/metrics/distribution.py",
            '    Measure(_embedding_distance, (_distance("cmmd", "CMMD", POPULATION, extractor="clip"),)),\n',
            MEAN_DISTANCE,
        ),
    ),
    "stage": (
        File("experiments/stages/brightness.py", "brightness.py"),
        Lines("experiments/stages/__init__.py", "from experiments.stages import (\n", "    brightness,\n"),
        Lines("experiments/stages/__init__.py", "    memorisation.STAGE,\n", "    brightness.STAGE,\n"),
    ),
}
"""By kind, in the words of the "How to add" section of docs/architecture.md, which has the same lists."""

MOST = {"sampler": 4, "regulariser": 4, "denoiser": 7, "task": 5, "metric": 1, "stage": 3}
"""Places that each kind may need; sizes of a regulariser or a task in the other scales would be one more a scale."""
