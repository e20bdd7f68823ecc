"""Augmentation: drawn per sample, done to whole batches, equal to what a pixel-by-pixel reading says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from objectives.augment import crop_and_flip, erase, mix, rotated_crop
from objectives.errors import ConfigError
from tests.objectives.helpers import classify, prepared


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def numbered(count: int = 200, height: int = 6, width: int = 5) -> Tensor:
    """Images whose pixels are all different and none is 0."""
    image = torch.arange(1.0, 2 * height * width + 1).view(1, 2, height, width)
    return image.repeat(count, 1, 1, 1)


def shifted(image: Tensor, down: int, right: int) -> Tensor:
    """Move by whole pixels, zeros coming in."""
    _, height, width = image.shape
    result = torch.zeros_like(image)
    for row in range(height):
        for column in range(width):
            if 0 <= row - down < height and 0 <= column - right < width:
                result[:, row, column] = image[:, row - down, column - right]
    return result


def is_one_of(image: Tensor, candidates: list[Tensor]) -> bool:
    return any(torch.equal(image, candidate) for candidate in candidates)


def test_a_crop_is_a_shift_within_the_padding() -> None:
    images = numbered()
    allowed = [shifted(images[0], down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    result = crop_and_flip(images, 1, 0.0)
    assert result.shape == images.shape
    assert all(is_one_of(image, allowed) for image in result)
    assert sum(is_one_of(candidate, list(result)) for candidate in allowed) == 9  # each sample its own


def test_a_flip_mirrors_about_its_share_of_the_images() -> None:
    images = numbered(400)
    result = crop_and_flip(images, 0, 0.25)
    mirrored = sum(bool(torch.equal(image, images[0].flip(2))) for image in result)
    untouched = sum(bool(torch.equal(image, images[0])) for image in result)
    assert mirrored + untouched == 400
    assert 70 <= mirrored <= 130


def test_a_certain_flip_of_a_crop_is_a_shift_of_the_mirror_image() -> None:
    images = numbered()
    allowed = [shifted(images[0], d, r).flip(2) for d in (-1, 0, 1) for r in (-1, 0, 1)]
    assert all(is_one_of(image, allowed) for image in crop_and_flip(images, 1, 1.0))


def test_a_rotation_by_nothing_is_a_crop_and_flip() -> None:
    images = numbered(50)
    result = rotated_crop(images, 1, 0.5, 1e-6)
    shifts = [shifted(images[0], d, r) for d in (-1, 0, 1) for r in (-1, 0, 1)]
    mirrored = [shifted(images[0].flip(2), d, r) for d in (-1, 0, 1) for r in (-1, 0, 1)]
    for image in result:
        assert any(torch.allclose(image, candidate, atol=1e-2) for candidate in shifts + mirrored)


def test_a_rotation_turns_by_the_drawn_angle(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the angle pinned to 90 degrees the result is torch.rot90, on a square image."""
    images = numbered(1, 5, 5)
    monkeypatch.setattr(torch, "rand", lambda *size, device=None: torch.ones(*size))
    turned = rotated_crop(images, 0, 0.0, 90.0)
    torch.testing.assert_close(turned, torch.rot90(images, 1, (2, 3)), atol=1e-3, rtol=1e-4)


def test_rotations_keep_the_proportions_of_an_oblong_image() -> None:
    """A disc in the middle stays a disc: no stretching with the aspect ratio."""
    y, x = torch.meshgrid(torch.arange(12) - 5.5, torch.arange(24) - 11.5, indexing="ij")
    disc = ((x**2 + y**2) < 16).float()[None, None].repeat(50, 1, 1, 1)
    assert float((rotated_crop(disc, 0, 0.0, 180.0) - disc).abs().mean()) < 0.04


def test_an_erased_rectangle_has_the_area_and_shape_it_should() -> None:
    images = torch.ones(500, 1, 32, 32)
    result = erase(images, 0.5)
    holes = (result == 0).flatten(1).sum(1)
    assert 200 <= int((holes > 0).sum()) <= 300
    share = holes[holes > 0] / (32 * 32)
    assert float(share.min()) > 0.01
    assert float(share.max()) < 0.36
    assert images.min() == 1  # the caller's images are left alone
    for image in result[holes > 0][:50]:
        rows, columns = torch.nonzero(image[0] == 0, as_tuple=True)
        height, width = int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1
        assert len(rows) == height * width  # a full rectangle


def test_mixup_mixes_pairs_by_their_share() -> None:
    inputs = torch.eye(64)[:, :, None, None]
    targets = torch.arange(64)
    mixed, others, share = mix(inputs, targets, alpha=0.4)
    expected = share[:, None] * torch.eye(64) + (1 - share[:, None]) * torch.eye(64)[others]
    torch.testing.assert_close(mixed[:, :, 0, 0], expected)
    assert len(set(share.tolist())) > 32  # drawn per sample
    assert sorted(others.tolist()) == list(range(64))


@pytest.mark.parametrize(
    "augment",
    [
        lambda images: crop_and_flip(images, 2, 0.5),
        lambda images: rotated_crop(images, 2, 0.5, 15.0),
        lambda images: erase(images, 0.5),
    ],
)
def test_the_seed_decides_the_augmentation(augment: Callable[[Tensor], Tensor]) -> None:
    images = torch.rand(20, 3, 9, 9)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(augment(images))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_augmentation_of_a_table_is_refused() -> None:
    with pytest.raises(ConfigError, match="rotation: wine has features, not images"):
        classify(dataset="wine", rotation=10, train_limit=None)


def test_validation_images_are_never_augmented() -> None:
    plain, augmented = prepared(), prepared(crop=1, erasing=0.5)
    for (one, _), (other, _) in zip(
        plain.validation.in_order(), augmented.validation.in_order(), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "settings", [{"crop": 1}, {"flip": 0.1}, {"rotation": 10}, {"erasing": 0.3}, {"mixup": 0.2}]
)
def test_digits_are_learnt_under_every_augmentation(settings: dict[str, float]) -> None:
    plain, _ = classify(epochs=4, train_limit=600)
    value, trial = classify(epochs=4, train_limit=600, **settings)
    assert value > 0.7
    assert trial.logs[4]["train_loss"] != classify(epochs=4, train_limit=600)[1].logs[4]["train_loss"]
    assert plain > 0.7
