"""Video files written by ffmpeg: MP4 and GIF, frame by frame, so that memory does not grow.

The pipe to ffmpeg is our own: `imageio_ffmpeg.write_frames` does not check ffmpeg's exit code, so
a full disk would leave a damaged file without an error.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

from ..errors import RunError, UsageError
from ..session.files import OTHER_OUT, TEMPORARY, explained
from ..session.signals import Signals

GIF_SECONDS = 30.0
"""The default limit of a GIF, so that a web page can include it."""


class VideoFormat(NamedTuple):
    """A file format and how ffmpeg writes it.

    every_frame: whether it shows every frame; otherwise one image per agent step, at most
    `max_fps` a second.  max_seconds: the limit if none is given.  passes: ffmpeg's options, one
    string per call, with `{0}` for a temporary folder; the first call reads frames, the last one
    writes `{0}/video`.
    """

    every_frame: bool
    max_fps: float
    max_seconds: float
    passes: tuple[str, ...]


FORMATS = {
    # Browsers play yuv420p only, and start before the end of the download only with faststart.
    ".mp4": VideoFormat(
        True,
        float("inf"),
        float("inf"),
        (
            "-c:v libx264 -preset veryfast -crf 16 -pix_fmt yuv420p -movflags +faststart "
            "-f mp4 {0}/video",
        ),
    ),
    # Two passes: the palette is known after the last frame only. It has room for the at most 128
    # colors of Atari, so that nothing needs to be dithered.
    ".gif": VideoFormat(
        False,
        50,  # browsers show faster ones slowly
        GIF_SECONDS,
        (
            "-c:v libx264rgb -preset ultrafast -qp 0 -f matroska {0}/lossless "
            "-vf palettegen -update 1 {0}/palette.png",
            "-i {0}/lossless -i {0}/palette.png "
            "-lavfi paletteuse=dither=none:diff_mode=rectangle -f gif {0}/video",
        ),
    ),
}


def video_format(path: Path) -> VideoFormat:
    """Return the format that the suffix of `path` names; UsageError for any other suffix."""
    found = FORMATS.get(path.suffix.lower())
    if found is None:
        raise UsageError(f"cannot record to {path}: the name must end in {' or '.join(FORMATS)}")
    return found


def find_ffmpeg() -> str:
    """Return the path of ffmpeg; UsageError if ffmpeg or Pillow, which draws text, is missing."""
    try:
        import imageio_ffmpeg
        import PIL.ImageFont  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "recording needs imageio-ffmpeg and Pillow: pip install 'ppo37[video]'"
        ) from error
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise UsageError(
            "recording needs ffmpeg, and imageio-ffmpeg has none for this machine; install it "
            "and set IMAGEIO_FFMPEG_EXE to its path"
        ) from error


@contextmanager
def open_video(
    path: Path, height: int, width: int, fps: float, ffmpeg: str, signals: Signals
) -> Iterator[IO[bytes]]:
    """Yield a pipe for the frames [height, width, 3] of a video, which replaces `path` at the end.

    An exception in the block leaves `path` as it was.  UsageError if `path` cannot be written;
    RunError if ffmpeg fails.
    """
    form = video_format(path)
    source = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {fps:g} -i - "
    with _temporary_folder(path) as folder:
        signals.at_end.append(partial(shutil.rmtree, folder, ignore_errors=True))
        with _running(ffmpeg, source + form.passes[0], folder, signals) as pipe:
            yield pipe
        for options in form.passes[1:]:
            with _running(ffmpeg, options, folder, signals):
                pass
        signals.check()
        if not (folder / "video").exists():
            raise RunError("ffmpeg could not write the video: it wrote nothing")
        with explained(f"cannot write {path}", OTHER_OUT):
            (folder / "video").replace(path)


@contextmanager
def _running(ffmpeg: str, options: str, folder: Path, signals: Signals) -> Iterator[IO[bytes]]:
    """Run ffmpeg and yield its standard input; wait for it at the end of the block.

    An exception in the block kills ffmpeg. RunError with the last line of its log if it fails.
    """
    quiet = ("-hide_banner", "-loglevel", "error", "-y")
    command = [ffmpeg, *quiet, *(option.format(folder) for option in options.split())]
    with _log_file(folder) as log:
        # In a session of its own, so that Ctrl-C reaches only this process, which then stops it.
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        except OSError as error:
            raise UsageError(
                f"cannot run {ffmpeg}: {error.strerror}; set IMAGEIO_FFMPEG_EXE to a working ffmpeg"
            ) from error
        assert process.stdin is not None
        signals.at_end.append(process.kill)
        try:
            with suppress(BrokenPipeError):  # ffmpeg has stopped reading: its log says why
                yield process.stdin
                process.stdin.close()
            process.wait()
        finally:
            process.kill()  # no effect after it has ended
            with suppress(OSError):
                process.stdin.close()
            process.wait()
            signals.at_end.remove(process.kill)
        if process.returncode != 0:
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines()
            reason = lines[-1] if lines else f"exit code {process.returncode}"
            raise RunError(f"ffmpeg could not write the video: {reason}")


def _log_file(folder: Path) -> IO[bytes]:
    """Open a temporary file, in `folder` if there is no other place for it."""
    try:
        return tempfile.TemporaryFile()
    except OSError:
        return tempfile.TemporaryFile(dir=folder)


@contextmanager
def _temporary_folder(path: Path) -> Iterator[Path]:
    """Yield a folder beside `path`, and so on the same disk; remove it at the end."""
    if path.is_dir():
        raise UsageError(f"{path} is a directory; name a file")
    prefix, suffix = TEMPORARY.split("*")
    with explained(f"cannot write {path}", OTHER_OUT):
        folder = tempfile.TemporaryDirectory(prefix=prefix, suffix=suffix, dir=path.parent)
    with folder as name:
        yield Path(name)
