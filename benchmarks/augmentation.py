"""Flip, rotation, scaling and elastic deformation of image and mask: ours beside six libraries, at 512 x 512.

Every side gets the study's ranges (rotation by up to 20 degrees, scaling by up to a tenth, shifts of up to 0.3 of the
distance between control points) and interpolates linearly, masks too, as ours does: the target is a share of muscle.
Libraries whose elastic field is a coarse grid get ours' number of nodes or the nearest they take; those that draw a
dense Gaussian field keep their own default smoothness, on which their cost depends. Each side works on images of the
form that its library takes; what makes that form is not timed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from harness import NotOffered, Rows, Sides, Work
from resolution import FREQUENCIES, contrast_kept, line_pairs

from l3muscle.profile import load_profile
from l3muscle.settings import AugmentationSettings

PART = "augmentation"
SETTINGS = load_profile("paper").augmentation
PROBABILITIES = tuple(name for name in AugmentationSettings.model_fields if name.endswith("probability"))
DEGREES = (-SETTINGS.rotation_degrees, SETTINGS.rotation_degrees)
SCALES = (1 - SETTINGS.scale, 1 + SETTINGS.scale)
BATCH = 4  # of the sides that take batches


@dataclass
class Form:
    """Images of a library's own form, and a transformation of one of them.

    Attributes
    ----------
    transform : callable
        Takes a member of `members`.
    members : list
        Images or batches with their masks.
    warped : callable, optional
        All channels (C, H, W) of one image, as an array, through the same transformation.
    """

    transform: Callable
    members: list
    warped: Callable[[np.ndarray], np.ndarray] | None = None


def prepared_images(count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Phantom images and masks, (count, size, size) float32 in [0, 1]."""
    from l3muscle.phantom.patients import phantom_slice
    from l3muscle.preprocess import crop_of, prepare_image, prepare_mask

    settings = load_profile("paper", image={"shape": [size, size]}).image
    images, masks = [], []
    for seed in range(count):
        drawn = phantom_slice(seed, size=size)
        crop = crop_of(drawn.hu, drawn.spacing, settings)
        images.append(prepare_image(drawn.hu, crop, settings)[0].numpy())
        masks.append(prepare_mask(drawn.mask, crop, settings)[0].numpy())
    return np.stack(images), np.stack(masks)


def _batches(images: np.ndarray, masks: np.ndarray) -> list:
    import torch

    return list(torch.from_numpy(np.stack([images, masks], axis=1)).split(BATCH))


def _tensors(images: np.ndarray, masks: np.ndarray, image: str, mask: str) -> list[dict]:
    import torch

    pairs = zip(torch.from_numpy(images)[:, None], torch.from_numpy(masks)[:, None], strict=True)
    return [{image: one, mask: other} for one, other in pairs]


def _largest_shift(size: int) -> float:
    """Largest shift of a node in pixels."""
    return SETTINGS.elastic_shift * (size - 1) / (SETTINGS.elastic_nodes - 1)


def ours(images: np.ndarray, masks: np.ndarray, probability: float) -> Form:
    """This package: one sampling grid, one interpolation, a batch at a time."""
    import torch

    from l3muscle.augment import augment_images

    settings = SETTINGS.model_copy(update=dict.fromkeys(PROBABILITIES, probability))
    generator = torch.Generator().manual_seed(0)

    def transform(batch):
        return augment_images(batch, settings, generator=generator)

    return Form(
        transform, _batches(images, masks), lambda phantom: transform(torch.from_numpy(phantom)[None])[0].numpy()
    )


def ours_in_a_chain(images: np.ndarray, masks: np.ndarray, probability: float) -> Form:
    """Our four transformations one after another, as a chain of transforms would."""
    import torch

    from l3muscle.augment import augment_images

    generator = torch.Generator().manual_seed(0)
    kinds = [SETTINGS.model_copy(update={**dict.fromkeys(PROBABILITIES, 0.0), name: 1.0}) for name in PROBABILITIES]

    def transform(batch):
        for settings in kinds:
            batch = augment_images(batch, settings, generator=generator)
        return batch

    return Form(transform, [], lambda phantom: transform(torch.from_numpy(phantom)[None])[0].numpy())


def opencv(images: np.ndarray, masks: np.ndarray, probability: float) -> Form:
    """Our sampling grid, looked up by OpenCV."""
    import cv2
    import torch

    from l3muscle.augment import sampling_grid

    settings = SETTINGS.model_copy(update=dict.fromkeys(PROBABILITIES, probability))
    generator, shape = torch.Generator().manual_seed(0), images.shape[-2:]

    def transform(batch: list[np.ndarray]) -> list[np.ndarray]:
        grids = sampling_grid(len(batch), shape, settings, generator=generator)
        pixels = ((grids + 1) * torch.tensor([shape[1] / 2, shape[0] / 2]) - 0.5).numpy()
        return [cv2.remap(both, at, None, cv2.INTER_LINEAR) for both, at in zip(batch, pixels, strict=True)]

    both = [np.ascontiguousarray(np.stack(pair, axis=-1)) for pair in zip(images, masks, strict=True)]
    return Form(transform, [both[start : start + BATCH] for start in range(0, len(both), BATCH)])


def monai(images: np.ndarray, masks: np.ndarray, probability: float, *, chain: bool = False) -> Form:
    """MONAI, its random elastic transform with rotation and scaling inside: two passes, one interpolation."""
    import torch
    from monai.transforms import Compose, Rand2DElasticd, RandFlipd, RandRotated, RandZoomd

    keys, size = ("image", "mask"), images.shape[-1]
    spacing = (size - 1) / (SETTINGS.elastic_nodes - 1)
    angle, scale = np.deg2rad(SETTINGS.rotation_degrees), SETTINGS.scale
    linear = {"prob": probability, "mode": "bilinear"}
    elastic = {"spacing": (spacing, spacing), "magnitude_range": (0, _largest_shift(size)), "padding_mode": "zeros"}
    steps = [RandFlipd(keys, spatial_axis=1, prob=probability)]
    if chain:
        zoom = {"min_zoom": SCALES[0], "max_zoom": SCALES[1], "padding_mode": "constant", "align_corners": False}
        steps += [
            RandRotated(keys, range_x=angle, padding_mode="zeros", **linear),
            RandZoomd(keys, **zoom, **linear),
            Rand2DElasticd(keys, **elastic, **linear),
        ]
    else:
        steps.append(Rand2DElasticd(keys, **elastic, **linear, rotate_range=angle, scale_range=(scale, scale)))
    compose = Compose(steps)
    compose.set_random_state(seed=0)

    def warped(phantom: np.ndarray) -> np.ndarray:
        tensor = torch.from_numpy(phantom)
        return np.asarray(compose({"image": tensor, "mask": tensor[:1]})["image"])

    return Form(compose, _tensors(images, masks, *keys), warped)


def monai_chain(images: np.ndarray, masks: np.ndarray, probability: float) -> Form:
    """MONAI, one transform after another."""
    return monai(images, masks, probability, chain=True)


def torchio(images: np.ndarray, masks: np.ndarray, probability: float) -> Form:
    """TorchIO, whose images are volumes: here of one slice."""
    import torch
    import torchio as tio

    shift = _largest_shift(images.shape[-1])
    linear = {"label_interpolation": "linear", "p": probability}
    # Two of the control points lie outside the image.
    nodes = (SETTINGS.elastic_nodes + 2,) * 2 + (4,)
    compose = tio.Compose(
        [
            tio.RandomFlip(axes=(1,), flip_probability=probability),
            tio.RandomAffine(
                scales=(*SCALES, *SCALES, 1, 1), degrees=(0, 0, 0, 0, *DEGREES), default_pad_value=0, **linear
            ),
            tio.RandomElasticDeformation(nodes, max_displacement=(shift, shift, 0), locked_borders=0, **linear),
        ]
    )

    def volume(channels: np.ndarray):
        return tio.ScalarImage(tensor=torch.from_numpy(channels)[..., None])

    members = [
        tio.Subject(image=volume(image[None]), mask=volume(mask[None]))
        for image, mask in zip(images, masks, strict=True)
    ]
    return Form(
        compose, members, lambda phantom: compose(tio.Subject(image=volume(phantom)))["image"].data[..., 0].numpy()
    )


def albumentations(images: np.ndarray, masks: np.ndarray, probability: float, *, coarse: bool = False) -> Form:
    """albumentations, elastic deformation by a dense Gaussian field."""
    import albumentations as A
    import cv2

    linear = {"interpolation": cv2.INTER_LINEAR, "mask_interpolation": cv2.INTER_LINEAR, "p": probability}
    shift = _largest_shift(images.shape[-1])
    if coarse:
        cells = (SETTINGS.elastic_nodes - 1,) * 2
        elastic = A.GridElasticDeform(num_grid_xy=cells, magnitude=round(shift), **linear)
    else:
        elastic = A.ElasticTransform(alpha=4 * shift, sigma=50, **linear)
    affine = A.Affine(rotate=DEGREES, scale=SCALES, **linear)
    compose = A.Compose([A.HorizontalFlip(p=probability), affine, elastic], seed=0)

    def warped(phantom: np.ndarray) -> np.ndarray:
        image = np.ascontiguousarray(phantom.transpose(1, 2, 0))
        return compose(image=image, mask=phantom[0])["image"].transpose(2, 0, 1)

    members = list(zip(images, masks, strict=True))
    # The coarse grid takes no more than three channels at a time.
    return Form(lambda pair: compose(image=pair[0], mask=pair[1]), members, None if coarse else warped)


def albumentations_grid(images: np.ndarray, masks: np.ndarray, probability: float) -> Form:
    """albumentations, elastic deformation by the corners of a coarse grid, with straight lines between them."""
    return albumentations(images, masks, probability, coarse=True)


def kornia(images: np.ndarray, masks: np.ndarray, probability: float) -> Form:
    """kornia, a batch at a time."""
    import kornia.augmentation as K
    import torch

    torch.manual_seed(0)
    sequence = K.AugmentationSequential(
        K.RandomHorizontalFlip(p=probability),
        K.RandomAffine(degrees=SETTINGS.rotation_degrees, scale=SCALES, p=probability),
        K.RandomElasticTransform(p=probability),
        data_keys=["input", "input"],  # a "mask" would be looked up by nearest neighbour
    )

    def transform(both):
        return sequence(both[:, :-1], both[:, -1:])

    def warped(phantom: np.ndarray) -> np.ndarray:
        # One image whose last channel plays the mask; the others are warped as the image.
        return transform(torch.from_numpy(np.concatenate([phantom, phantom[:1]]))[None])[0][0].numpy()

    return Form(transform, _batches(images, masks), warped)


def torchvision(images: np.ndarray, masks: np.ndarray, probability: float) -> Form:
    """torchvision's transforms v2."""
    import torch
    from torchvision.transforms import v2
    from torchvision.tv_tensors import Image  # a mask would be looked up by nearest neighbour

    torch.manual_seed(0)
    linear = {"interpolation": v2.InterpolationMode.BILINEAR}
    affine = v2.RandomAffine(degrees=SETTINGS.rotation_degrees, scale=SCALES, **linear)
    several = [v2.RandomApply([one], p=probability) for one in (affine, v2.ElasticTransform(**linear))]
    compose = v2.Compose([v2.RandomHorizontalFlip(p=probability), *several])
    members = [tuple(Image(array[None]) for array in pair) for pair in zip(images, masks, strict=True)]
    return Form(lambda pair: compose(*pair), members, lambda phantom: compose(Image(phantom)).numpy())


def batchgenerators(images: np.ndarray, masks: np.ndarray, probability: float) -> Form:
    """batchgeneratorsv2, nnU-Net's augmenter: one interpolation."""
    import torch
    from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
    from batchgeneratorsv2.transforms.utils.random import RandomTransform

    angle = float(np.deg2rad(SETTINGS.rotation_degrees))
    spatial = SpatialTransform(
        images.shape[-2:],
        0,
        False,
        p_elastic_deform=probability,
        p_rotation=probability,
        rotation=(-angle, angle),
        p_scaling=probability,
        scaling=SCALES,
        p_synchronize_scaling_across_axes=1,
    )
    compose = ComposeTransforms([spatial, RandomTransform(MirrorTransform((1,)), apply_probability=probability)])
    members = _tensors(images, masks, "image", "regression_target")
    return Form(
        lambda member: compose(**member),
        members,
        lambda phantom: compose(image=torch.from_numpy(phantom))["image"].numpy(),
    )


FORMS = {
    "ours": ours,
    "ours, in a chain": ours_in_a_chain,
    "our grid by OpenCV": opencv,
    "MONAI": monai,
    "MONAI, in a chain": monai_chain,
    "TorchIO": torchio,
    "albumentations": albumentations,
    "albumentations, coarse grid": albumentations_grid,
    "kornia": kornia,
    "torchvision v2": torchvision,
    "batchgeneratorsv2": batchgenerators,
}


def _side(make: Callable[..., Form]) -> Callable[..., Work]:
    def side(images: np.ndarray, masks: np.ndarray, probability: float, draws: int) -> Work:
        form = make(images, masks, probability)

        def run() -> None:
            for member in form.members:
                form.transform(member)

        def contrast() -> list[np.ndarray]:
            if form.warped is None:
                raise NotOffered("interpolates as ours does, or takes too few channels")
            phantom = line_pairs(images.shape[-1])
            return [contrast_kept(form.warped(phantom)) for _ in range(draws)]

        return Work(run, len(images), contrast)

    return side


SIDES = {name: _side(make) for name, make in FORMS.items()}


def run(rows: Rows, size, folder: Path) -> None:
    """Compare the augmentations, their speed and their sharpness."""
    images, masks = prepared_images(size.images, size.image_size)
    given = {"images": images, "masks": masks, "draws": size.draws}
    every = f"{size.cores} cores" if size.cores > 1 else "one core"
    cases = {
        "all four, one core": (1.0, 1),
        f"all four, {every}": (1.0, size.cores),
        f"each every other time, {every}": (0.5, size.cores),
    }
    with Sides(__name__, SIDES) as sides:
        for case, (probability, threads) in cases.items():
            units = sides.prepare({**given, "probability": probability}, threads)
            units.pop("ours, in a chain", None)  # is looked at for its sharpness only
            seconds = sides.alternate(units, rounds=size.rounds, block_s=size.block_s)
            rows.add_times(PART, case, "images a second", seconds, sides.failed)
        units = sides.prepare({**given, "probability": 1.0}, size.cores)
        for name, kept in sides.outcomes(units).items():
            for frequency, values in zip(FREQUENCIES, np.array(kept).T, strict=True):
                rows.add(PART, f"{frequency:g} cycles a pixel", "contrast kept", name, values)
        rows.missing(PART, "every frequency", "contrast kept", sides.failed)
