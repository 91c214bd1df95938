"""The mask of a person's hands and forearms by SAM2 (Ravi et al., 2408.00714), frame by frame: each hand is pointed out to it
by the wrist and the knuckles, and of the masks that it offers one is taken that is a hand, or a hand and its forearm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpora.agent.forearm import forearm_wedge, hand_shape
from corpora.agent.hand_masks import OF_HANDS, HandMask, register
from corpora.agent.settings import TrackSettings
from corpora.store.files import digest_of

SHOWN = (0, 5, 9, 13, 17)
"""Landmarks that are pointed out: the wrist and the knuckles, which what is held hides less than the fingers."""
KINDS = ("sam2", "sam2_video")
"""As configurations name it: SAM2 as it is published is the one that follows through video, and holds the other."""
PARTS = ("vision_config", "prompt_encoder_config", "mask_decoder_config")
WITHIN = 0.9
"""Of a mask that must lie where the hand and its forearm may."""
COVERED = 0.6
"""Of the hand's own shape that it must hold: objects that are held hide fingers."""


@register
class Sam2Mask(HandMask):
    """See the module."""

    name, reads = "sam2", OF_HANDS | {"mask_model"}

    def __init__(self, settings: TrackSettings) -> None:
        if not settings.mask_model:
            raise ValueError(
                "--mask sam2: name the model by hub name or folder, --mask-model facebook/sam2.1-hiera-tiny; or give --mask grabcut, "
                "which needs none"
            )
        self._model, self._processor, self._identity = _load(settings.mask_model)

    @property
    def identity(self) -> str:
        return self._identity

    def __call__(self, rgb: NDArray[np.uint8], hands: Sequence[NDArray[np.floating]]) -> NDArray[np.bool_]:
        import torch

        points = [[hand[list(SHOWN)].tolist() for hand in hands]]
        labels = [[[1] * len(SHOWN) for _ in hands]]
        given = self._processor(images=rgb, input_points=points, input_labels=labels, return_tensors="pt")
        sizes = given.pop("original_sizes")
        with torch.inference_mode():
            found = self._model(**given.to(self._model.device)).pred_masks
        masks = self._processor.post_process_masks(found.float().cpu(), sizes)[0].numpy()
        return np.logical_or.reduce([chosen(offered, hand) for offered, hand in zip(masks, hands, strict=True)])


def chosen(offered: NDArray[np.bool_], landmarks_px: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Of masks [M, H, W] the largest that holds the hand and lies where it and its forearm may: a finger is less, a person, or
    the table, is more. The hand as its landmarks lie is part of it, and all of it where no mask is such."""
    hand = hand_shape(landmarks_px, offered.shape[1:])
    if not hand.any():
        return hand  # it is beyond the image
    where = hand | forearm_wedge(landmarks_px, offered.shape[1:])
    fitting = [
        mask
        for mask in offered
        if (mask & hand).sum() >= COVERED * hand.sum() and (mask & where).sum() >= WITHIN * mask.sum()
    ]
    return hand | max(fitting, key=lambda mask: int(mask.sum())) & where if fitting else hand


def _load(name: str) -> tuple[Any, Any, str]:
    """Model, processor, and what the weights are. Raises ValueError where it is no SAM2, or not whole. No remote code is run."""
    import torch
    from transformers import AutoConfig, Sam2Config, Sam2Model, Sam2Processor

    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        if config.model_type not in KINDS:
            raise ValueError(f"it is {config.model_type}")
        parts = {part: getattr(config, part).to_dict() for part in PARTS}
        loaded: Any = Sam2Model.from_pretrained(name, config=Sam2Config(**parts), output_loading_info=True)
        model, told = loaded
        processor = Sam2Processor.from_pretrained(name)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"--mask-model '{name}': is no SAM2 that loads ({reason}): give a hub name, for instance "
            "facebook/sam2.1-hiera-tiny, or a folder of its files, and check the network; or give --mask grabcut"
        ) from error
    if told["missing_keys"]:
        raise ValueError(
            f"--mask-model '{name}': lacks weights ({sorted(told['missing_keys'])[0]} and others): download it again"
        )
    weights = (value.contiguous().reshape(-1).view(torch.uint8).numpy() for value in model.state_dict().values())
    identity = digest_of(*(each.tobytes() for each in weights))
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), processor, identity
