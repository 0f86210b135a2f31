"""Plots of shipped checkpoints as PNG with a palette: less than half of the bytes, and no eye tells them apart."""

import io
from pathlib import Path

from deqzoo.atomic import whole_file

ERROR = 1.0  # largest, of 255: the mean over the pixels of a colour


def use_palette(path: Path) -> bool:
    """Store a PNG with 256 colours of its own, by median cut, where these differ from it by at most `ERROR`.

    Lines and areas do; photographs, and what one can see through, are left as they are.

    Returns:
        Whether it was stored anew; False, too, where that would save nothing.

    >>> import tempfile
    >>> from deqzoo.plots.figure import panels, save
    >>> file = save(panels(1, "A plot")[0], Path(tempfile.mkdtemp(), "plot.png"))
    >>> use_palette(file), use_palette(file)
    (True, False)
    """
    from PIL import Image, ImageChops, ImageStat

    with Image.open(path) as stored:
        if stored.mode == "P" or (stored.mode == "RGBA" and stored.getchannel("A").getextrema() != (255, 255)):
            return False
        image = stored.convert("RGB")
    few = image.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    if max(ImageStat.Stat(ImageChops.difference(image, few.convert("RGB"))).mean) > ERROR:
        return False
    encoded = io.BytesIO()
    few.save(encoded, format="PNG", optimize=True)
    if len(encoded.getvalue()) >= path.stat().st_size:
        return False
    with whole_file(path) as part:
        part.write_bytes(encoded.getvalue())
    return True
