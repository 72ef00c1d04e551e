"""Made-up folders and zip archives of images."""

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from ldm.data import open_splits


def png(seed, side=16):
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_folder(root, files):
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_zip(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def opened(path, resolution=16, **options):
    options = {
        key: Path(value) if key in ("captions", "boxes", "semantic") else value for key, value in options.items()
    }
    return open_splits("folder", resolution, path=path, **options)
