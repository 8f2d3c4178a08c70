"""The arguments and the help of `ntkla features`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ntkla.app.command_line.shared_options import Debug
from ntkla.app.failures import need, readable_errors


class BackboneName(str, Enum):
    """The packaged backbones; a test keeps them in step with `backbone.BACKBONES`."""

    EFFICIENTNET_LITE0 = "efficientnet-lite0"
    PIXELS = "pixels"


def features(
    images: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGES",
            help="A folder with one subfolder of PNG or JPEG images a class; a .npy file of uint8 [n, H, W] or "
            "[n, H, W, 3]; or an IDX file of images (MNIST, Fashion-MNIST; also .gz), its labels found beside it.",
        ),
    ],
    output: Annotated[
        Path, typer.Argument(metavar="OUTPUT", help="The .safetensors file to write; replaced when it is there.")
    ],
    backbone: Annotated[
        BackboneName, typer.Option(help="Frozen features: an ImageNet network, or the pixels themselves.")
    ] = BackboneName.EFFICIENTNET_LITE0,
    labels: Annotated[
        Path | None, typer.Option(help="A .npy file of integers [n]: of each image the number of its output, from 0.")
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="For a folder: the names of all outputs of the head, in order, as cat,dog,horse. Without it "
            "subfolders called by numbers have these as labels, and others 0, 1, ... in the order of their names."
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            min=8, max=1024, help="Scale images to this edge, in pixels. Without it: 64 for the network, else as is."
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Images in, frozen features out: a file that `ntkla forecast` reads as a task.

    The file holds `features` [n, F] and, where there are any, `labels` [n].  The features are also kept in the cache
    folder that `ntkla info` names: a run that was stopped goes on where it was.  It may be emptied at any time.
    """
    with readable_errors(debug):
        run = need("ntkla.app.images.image_features", "cli").run_features
        run(images, output, backbone.value, labels, classes, size)
