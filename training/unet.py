# SPDX-License-Identifier: GPL-3.0-or-later
"""The U-Net of the RF Challenge baselines in Keras 3: a mixture in, its signal of interest out.

After RFChallenge/SCSS_CSGaussian, which arXiv 2306.14411 (Appendix G, Figure 18) trains as its supervised peer: five
levels of two convolutions each, of which the first is long, max pooling between them, transposed convolutions and skip
connections back up. Keras decides by the environment variable KERAS_BACKEND whether TensorFlow or torch computes it.
"""

import inspect
import zipfile
from pathlib import Path

import keras
import numpy as np
from keras import layers

#: Of the decoder's levels, deepest first, relative to the encoder's width.
DECODER = (1, 1, 1 / 2, 1 / 4, 1 / 8)


def make_unet(window: int, width: int = 256, first_kernel: int = 101, kernel: int = 3,
              dropout: tuple[float, float] = (0.25, 0.5)) -> keras.Model:
    """An untrained network float32 [B, window, 2] -> [B, window, 2], real and imaginary last.

    window: samples, a multiple of 32. width: channels of the encoder, a multiple of 8; 256 is the published size.
    first_kernel, kernel: taps of the first and of the other convolutions, odd. dropout: shares that are dropped behind
    the first level, and behind the others and in the decoder; 0: none. Raises ValueError for values out of range.
    """
    halvings = len(DECODER)
    if not isinstance(window, int) or window < 1 or window % 2**halvings:
        raise ValueError(f"the window is {window}; the network needs a multiple of {2**halvings} samples")
    if not isinstance(width, int) or width < 8 or width % 8:
        raise ValueError(f"the network has width {width}; allowed are multiples of 8")
    for name, taps in (("first_kernel", first_kernel), ("kernel", kernel)):
        if not isinstance(taps, int) or taps < 1 or taps % 2 == 0:
            raise ValueError(f"the network has {name} {taps}; allowed are odd numbers")
    if not (isinstance(dropout, (list, tuple)) and len(dropout) == 2 and all(0 <= share < 1 for share in dropout)):
        raise ValueError(f"the network has dropout {dropout}; it must be two shares from 0 on, below 1")

    def convolutions(x, channels, first=kernel):
        for taps in (first, kernel):
            x = layers.Conv1D(channels, taps, padding="same", activation="relu")(x)
        return x

    def drop(x, share):
        return layers.Dropout(share)(x) if share else x

    mixture = keras.Input((window, 2))
    x = layers.BatchNormalization()(mixture)
    skips = []
    for level in range(halvings):
        x = convolutions(x, width, first_kernel if level == 0 else kernel)
        skips.append(x)
        x = drop(layers.MaxPooling1D(2)(x), dropout[0] if level == 0 else dropout[1])
    x = convolutions(x, width)
    for share in DECODER:
        x = layers.Conv1DTranspose(round(share * width), kernel, strides=2, padding="same")(x)
        x = drop(layers.Concatenate()([x, skips.pop()]), dropout[1])
        x = convolutions(x, round(share * width))
    return keras.Model(mixture, layers.Conv1D(2, 1)(x), name="unet")


def unet_from(network: dict, window: int) -> keras.Model:
    """The untrained network that a configuration's `network` describes: `kind` unet and make_unet's parameters.

    Raises ValueError for another kind, unknown parameters or values out of range.
    """
    options = dict(network)
    if options.pop("kind", None) != "unet":
        raise ValueError("the network's kind must be unet; train.py trains the others")
    allowed = [name for name in inspect.signature(make_unet).parameters if name != "window"]
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        raise ValueError(f"the network unet takes no '{unknown[0]}'; allowed are {', '.join(allowed)}")
    return make_unet(window, **options)


def load_checkpoint(path: Path) -> dict[str, np.ndarray]:
    """A checkpoint's arrays. Raises FileNotFoundError, or ValueError that says how it is broken."""
    try:
        with open(path, "rb") as whole, np.load(whole, allow_pickle=False) as file:  # reading checks the checksums
            state = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise ValueError(f"{path} is no whole checkpoint of train_unet.py ({type(error).__name__})") from None
    if not {"run", "card", "probe", "answer"} <= set(state):
        raise ValueError(f"{path} is no checkpoint of train_unet.py")
    return state
