"""Parts of a picture with the channels of each pixel side by side, so that a vector holds four pixels."""

from numba import njit

# Values a pixel: R, G, B and one that is not used, 0.
CHANNELS = 4


@njit(cache=True, nogil=True, error_model="numpy")
def interleave(planes, offset, h, w, left, top, part, start, height, width):  # pragma: no cover - compiled
    """Copy a part of a picture; what lies beyond its borders is what lies at them.

    Args:
        planes: [3, h, w] pictures of any type, flattened and concatenated.
        offset: index at which this picture starts.
        h: height of this picture in pixels.
        w: width of this picture in pixels.
        left: column of the picture that the part starts at; may be negative.
        top: row of the picture that the part starts at; may be negative.
        part: [height, width, 4] parts of the same type, flattened and concatenated; the fourth channel is not written.
        start: index at which this part starts.
        height: height of the part in pixels.
        width: width of the part in pixels.
    """
    # The columns of the part that lie within the picture.
    first, last = min(max(-left, 0), width), max(min(w - left, width), 0)
    for i in range(height):
        row = min(max(top + i, 0), h - 1)
        into = part[start + CHANNELS * width * i : start + CHANNELS * width * (i + 1)]
        for k in range(3):
            base = offset + (k * h + row) * w
            for j in range(first):
                into[CHANNELS * j + k] = planes[base]
            for j in range(max(last, 0), width):
                into[CHANNELS * j + k] = planes[base + w - 1]
        red = offset + row * w + left
        green, blue = red + h * w, red + 2 * h * w
        for j in range(first, last):
            into[CHANNELS * j] = planes[red + j]
            into[CHANNELS * j + 1] = planes[green + j]
            into[CHANNELS * j + 2] = planes[blue + j]


@njit(cache=True, nogil=True)
def copy_colors(pixels, into):  # pragma: no cover - compiled
    """Copy three channels of a picture [h, w, 3 or more] to those of another, of any strides."""
    for row in range(pixels.shape[0]):
        for column in range(pixels.shape[1]):
            for k in range(3):
                into[row, column, k] = pixels[row, column, k]
