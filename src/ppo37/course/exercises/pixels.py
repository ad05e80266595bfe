"""Exercises on pixels: from two screens to one small gray picture, and the stack of pictures."""

import torch
from torch import Tensor

from .. import tasks
from ..exercise import Case, Exercise, Mistake, Place, Wrong, numbers

PICTURE, STACK = "From screens to one picture", "A stack of pictures"
BLOCK = tasks.BLOCK


def _preprocess(wrong: Wrong, previous: Tensor, current: Tensor) -> Tensor:
    first, second = previous.float(), current.float()
    if "last_only" in wrong:
        both = second
    elif "first_only" in wrong:
        both = first
    elif "mean" in wrong:
        both = (first + second) / 2.0
    elif "sum" in wrong:
        both = first + second
    elif "overflow" in wrong:
        both = (previous + current).float()
    elif "difference" in wrong:
        both = (second - first).abs()
    else:
        both = torch.maximum(first, second)
    weights = torch.tensor([0.299, 0.587, 0.114])
    if "plain_gray" in wrong:
        weights = torch.ones(3) / 3.0
    if "bgr" in wrong:
        weights = weights.flip(0)
    gray = both[..., 0] if "red_only" in wrong else (both * weights).sum(-1)
    if "gray_first" in wrong:
        gray = torch.maximum((first * weights).sum(-1), (second * weights).sum(-1))
    if "rounded" in wrong:
        gray = gray.floor()
    blocks = gray.unflatten(2, (-1, BLOCK)).unflatten(1, (-1, BLOCK))
    if "corner" in wrong:
        small = blocks[:, :, 0, :, 0]
    elif "largest" in wrong:
        small = blocks.amax((2, 4))
    elif "middle" in wrong:
        small = blocks[:, :, 1:3, :, 1:3].mean((2, 4))
    elif "in_memory" in wrong:
        shape = (blocks.shape[0], blocks.shape[1], blocks.shape[3], BLOCK * BLOCK)
        small = gray.reshape(shape).mean(-1)
    else:
        small = blocks.mean((2, 4))
    if "cropped" in wrong:
        small = gray[:, : small.shape[1], : small.shape[2]]
    if "transposed" in wrong:
        small = small.transpose(1, 2)
    return small / 255.0 if "scaled" in wrong else small


def _screens() -> list[Case]:
    r = numbers(61)

    def screen(n: int, height: int, width: int) -> Tensor:
        shape = (n, height, width, 3)
        return torch.randint(0, 256, shape, generator=r, dtype=torch.uint8)

    black = torch.zeros(1, 4, 4, 3, dtype=torch.uint8)
    colors = torch.zeros(1, 4, 12, 3, dtype=torch.uint8)
    for i in range(3):
        colors[:, :, 4 * i : 4 * i + 4, i] = 200
    shown = torch.full_like(black, 100)
    return [
        Case("where both screens are equal", (shown, shown)),
        Case("where an object is only on the screen before", (shown, black)),
        Case("where an object is only on this screen", (black, shown)),
        Case("with a red, a green and a blue block", (colors, colors)),
        Case("with other pixels in a block", (screen(1, 4, 4),) * 2),
        Case("with more columns than rows", (screen(1, 8, 12), screen(1, 8, 12))),
        Case("for several environments", (screen(3, 8, 8), screen(3, 8, 8))),
    ]


def _pictures_by_hand(previous: Tensor, current: Tensor) -> Tensor:
    """Compute the pictures number by number."""
    pictures = []
    for before, now in zip(previous.tolist(), current.tolist(), strict=True):
        gray = [
            [
                sum(w * max(a, b) for w, a, b in zip((0.299, 0.587, 0.114), *pair, strict=True))
                for pair in zip(*rows, strict=True)
            ]
            for rows in zip(before, now, strict=True)
        ]
        pictures.append(
            [
                [
                    sum(gray[y + i][x + j] for i in range(BLOCK) for j in range(BLOCK)) / BLOCK**2
                    for x in range(0, len(gray[0]), BLOCK)
                ]
                for y in range(0, len(gray), BLOCK)
            ]
        )
    return torch.tensor(pictures)


PREPROCESS = Exercise(
    name="preprocess",
    lesson="pixels",
    signature="preprocess(previous: Tensor, current: Tensor) -> Tensor",
    text=f"""Make one gray picture of two screens in a row, [N, H / {BLOCK}, W / {BLOCK}].

1. Take the larger value of both screens for each pixel and color: objects may flicker.
2. Make it gray: 0.299 * red + 0.587 * green + 0.114 * blue.
3. Make it smaller: the mean of each block of {BLOCK} x {BLOCK} pixels.

previous, current: [N, H, W, 3] uint8, for N environments; H and W are multiples of {BLOCK}.
The result is float32 in 0 ... 255, not rounded.""",
    cases=_screens,
    oracle=_pictures_by_hand,
    solve=_preprocess,
    mistakes={
        "last_only": Mistake(
            "It uses only the newest screen; an object that flickers is then often invisible.",
            PICTURE,
        ),
        "first_only": Mistake("It uses only the screen before.", PICTURE),
        "mean": Mistake("It takes the mean of both screens; the larger value counts.", PICTURE),
        "sum": Mistake("It adds both screens; the larger value counts.", PICTURE),
        "overflow": Mistake(
            "It adds numbers of the type uint8, which overflow above 255; and the larger value is "
            "needed, not the sum.",
            PICTURE,
        ),
        "difference": Mistake(
            "It takes the difference of the screens: what does not move disappears.", PICTURE
        ),
        "plain_gray": Mistake(
            "Its gray is the plain mean of the colors; the eye and the emulator weight them "
            "0.299, 0.587 and 0.114.",
            PICTURE,
        ),
        "bgr": Mistake("It has red and blue swapped.", PICTURE),
        "red_only": Mistake("It uses only the red color.", PICTURE),
        "gray_first": Mistake(
            "It makes both screens gray and takes the larger gray value; the larger value of each "
            "color is needed.",
            PICTURE,
        ),
        "rounded": Mistake(
            "It rounds the gray values to whole numbers before it takes the mean.", PICTURE
        ),
        "middle": Mistake(
            "It uses only the four pixels in the middle of each block, as bilinear interpolation "
            "does; the mean of all 16 is needed.",
            PICTURE,
        ),
        "in_memory": Mistake(
            "Its blocks are pixels that follow each other in memory, parts of a row; a block has "
            "pixels of four rows.",
            PICTURE,
        ),
        "corner": Mistake(
            "It takes one pixel of each block; a small object between these pixels disappears. The "
            "mean is needed.",
            PICTURE,
        ),
        "largest": Mistake(
            "It takes the largest pixel of each block; the mean is needed.", PICTURE
        ),
        "cropped": Mistake("It cuts out a corner of the screen instead of shrinking it.", PICTURE),
        "transposed": Mistake("It has rows and columns swapped.", PICTURE),
        "scaled": Mistake("It divides by 255; that is done later, in the network.", PICTURE),
    },
    place=Place(tasks, "preprocess"),
    other="difference",
    task="flicker",
)


def _stack(wrong: Wrong, stack: Tensor, picture: Tensor, starts: Tensor) -> Tensor:
    new = picture.unsqueeze(1)
    keep = 1.0 - starts[:, None, None, None]
    if "inverted" in wrong:
        keep = 1.0 - keep
    if "not_cleared" in wrong:
        keep = torch.ones_like(keep)
    if "all_cleared" in wrong:
        keep = torch.ones_like(keep) * (1.0 - starts.max())
    old = stack if "cleared_after" in wrong else stack * keep
    if "second_kept" in wrong:
        old = torch.cat([old[:, :-1], stack[:, -1:]], 1)
    if "oldest_cleared" in wrong:  # the oldest one of those that stay
        old = torch.cat([stack[:, :1], stack[:, 1:2] * keep, stack[:, 2:]], 1)
    if "backwards" in wrong:
        result = torch.cat([old[:, -1:], old[:, :-2], new], 1)
    elif "all_same" in wrong:
        result = torch.cat([old[:, -1:].expand_as(old[:, 1:]), new], 1)
    elif "new_first" in wrong:
        result = torch.cat([new, old[:, :-1]], 1)
    elif "replaced" in wrong:
        result = torch.cat([old[:, :-1], new], 1)
    elif "not_added" in wrong:
        result = torch.cat([old[:, 1:], old[:, -1:]], 1)
    else:
        result = torch.cat([old[:, 1:], new], 1)
    if "repeated" in wrong:
        result = torch.where(starts[:, None, None, None] > 0, new, result)
    return result * keep if "cleared_after" in wrong else result


def _stacks() -> list[Case]:
    r = numbers(62)

    def pictures(*shape: int) -> Tensor:
        return torch.randint(1, 256, shape, generator=r).float()

    return [
        Case("within an episode", (pictures(1, 4, 1, 1), pictures(1, 1, 1), torch.zeros(1))),
        Case("where an episode starts", (pictures(1, 4, 2, 2), pictures(1, 2, 2), torch.ones(1))),
        Case(
            "for several environments",
            (pictures(3, 4, 2, 3), pictures(3, 2, 3), torch.tensor([0.0, 1.0, 0.0])),
        ),
    ]


def _stacks_by_hand(stack: Tensor, picture: Tensor, starts: Tensor) -> Tensor:
    result = []
    for frames, new, start in zip(stack.tolist(), picture.tolist(), starts.tolist(), strict=True):
        nothing = [[0.0] * len(row) for row in new]
        result.append([*([nothing] * (len(frames) - 1) if start else frames[1:]), new])
    return torch.tensor(result)


STACK_FRAMES = Exercise(
    name="stack_frames",
    lesson="pixels",
    signature="stack_frames(stack: Tensor, picture: Tensor, starts: Tensor) -> Tensor",
    text="""Add the newest picture to the stack of the last K pictures, [N, K, H, W].

The oldest picture leaves the stack, and the newest one is the last. Where an episode starts,
all pictures before the newest one are 0.

stack: [N, K, H, W].  picture: [N, H, W], the newest one.  All inputs are float32.
starts: [N], 1 where the newest picture is the first of an episode, else 0.""",
    cases=_stacks,
    oracle=_stacks_by_hand,
    solve=_stack,
    mistakes={
        "new_first": Mistake("It puts the newest picture first; it has to be the last.", STACK),
        "replaced": Mistake(
            "It replaces the newest picture instead of moving all of them by one: the oldest one "
            "stays forever.",
            STACK,
        ),
        "not_added": Mistake("The newest picture is not in the stack.", STACK),
        "backwards": Mistake(
            "It moves the pictures in the wrong direction: the oldest one has to leave.", STACK
        ),
        "all_same": Mistake(
            "All older pictures become the same one; it overwrites a picture before it is moved.",
            STACK,
        ),
        "second_kept": Mistake(
            "Where an episode starts, it keeps the picture before the newest one.", STACK
        ),
        "oldest_cleared": Mistake(
            "Where an episode starts, it clears only the oldest picture; all but the newest have "
            "to be 0.",
            STACK,
        ),
        "not_cleared": Mistake(
            "It keeps pictures of the episode before where a new one starts.", STACK
        ),
        "all_cleared": Mistake(
            "It clears the stacks of all environments as soon as one episode starts.", STACK
        ),
        "inverted": Mistake("It clears the stack where no episode starts.", STACK),
        "cleared_after": Mistake(
            "Where an episode starts it clears the newest picture as well.", STACK
        ),
        "repeated": Mistake(
            "Where an episode starts it repeats the first picture; some libraries do so, here the "
            "others are 0.",
            STACK,
        ),
    },
    place=Place(tasks, "stack_frames"),
    other="not_added",
    task="flicker",
)

EXERCISES = (PREPROCESS, STACK_FRAMES)
