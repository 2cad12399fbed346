"""Flip, rotation, scaling and elastic deformation of image and mask: ours beside six libraries, at 512 x 512.

Every side gets the study's ranges (rotation by up to 20 degrees, scaling by up to a tenth, shifts of up to 0.3 of the
distance between control points) and interpolates linearly, masks too, as ours does: the target is a share of muscle.
Libraries whose elastic field is a coarse grid get ours' number of nodes or the nearest they take; those that draw a
dense Gaussian field keep their own default smoothness, on which their cost depends. Each side works on images of the
form that its library takes; what makes that form is not timed.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from harness import NotOffered, Rows, Sides, Work
from resolution import FREQUENCIES, contrast_kept, line_pairs, warp_once_and_in_chain

from l3muscle.profile import AugmentationSettings, load_profile

PART = "augmentation"
SETTINGS = load_profile("paper").augmentation
BATCH = 4  # of the sides that take batches


class Form:
    """Images of a library's own form, and a transformation of one of them.

    Parameters
    ----------
    transform : callable
        Takes a member of `members`.
    members : list
        Images or batches with their masks.
    images : int
        In all members together.
    """

    def __init__(self, transform: Callable, members: list, images: int) -> None:
        self.transform, self.members, self.images = transform, members, images


def read_images(data: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and masks, (N, 512, 512) float32 in [0, 1]."""
    with np.load(data) as arrays:
        return arrays["images"], arrays["masks"]


def write_images(path: Path, count: int, size: int) -> None:
    """Draw the images once for all sides."""
    from l3muscle.phantom.patients import phantom_slice
    from l3muscle.preprocess import frame_of, prepare_image, prepare_mask
    from l3muscle.profile import ImageSettings

    settings = ImageSettings(shape=(size, size))
    images, masks = [], []
    for seed in range(count):
        phantom = phantom_slice(seed, size=size)
        frame = frame_of(phantom.hu, phantom.spacing, settings)
        images.append(prepare_image(phantom.hu, frame, settings)[0].numpy())
        masks.append(prepare_mask(phantom.mask, frame, settings)[0].numpy())
    np.savez(path, images=np.stack(images), masks=np.stack(masks))


def _batches(images: np.ndarray, masks: np.ndarray, device: str) -> list:
    import torch

    both = torch.from_numpy(np.stack([images, masks], axis=1)).to(device)
    return list(both.split(BATCH))


def _largest_shift(size: int) -> float:
    """Largest shift of a node in pixels."""
    return SETTINGS.elastic_shift * (size - 1) / (SETTINGS.elastic_nodes - 1)


def _with_probability(probability: float) -> AugmentationSettings:
    names = [name for name in AugmentationSettings.model_fields if name.endswith("probability")]
    return SETTINGS.model_copy(update=dict.fromkeys(names, probability))


def ours(images: np.ndarray, masks: np.ndarray, probability: float, device: str) -> Form:
    """This package: one sampling grid, one interpolation, a batch at a time."""
    import torch

    from l3muscle.augment import augment_images

    generator, settings = torch.Generator().manual_seed(0), _with_probability(probability)
    members = _batches(images, masks, device)
    return Form(lambda both: augment_images(both, settings, generator=generator), members, len(images))


def opencv(images: np.ndarray, masks: np.ndarray, probability: float, device: str) -> Form:
    """Our sampling grid, looked up by OpenCV."""
    import cv2
    import torch

    from l3muscle.augment import sampling_grid

    if device != "cpu":
        raise NotOffered("works on the CPU only")
    generator, settings = torch.Generator().manual_seed(0), _with_probability(probability)
    shape = images.shape[-2:]

    def transform(batch: list[np.ndarray]) -> list[np.ndarray]:
        grids = sampling_grid(len(batch), shape, settings, generator=generator)
        places = ((grids + 1) * torch.tensor([shape[1] / 2, shape[0] / 2]) - 0.5).numpy()
        return [cv2.remap(both, place, None, cv2.INTER_LINEAR) for both, place in zip(batch, places, strict=True)]

    both = [np.ascontiguousarray(np.stack(pair, axis=-1)) for pair in zip(images, masks, strict=True)]
    members = [both[start : start + BATCH] for start in range(0, len(both), BATCH)]
    return Form(transform, members, len(images))


def _monai(images: np.ndarray, masks: np.ndarray, probability: float, device: str, *, chain: bool) -> Form:
    import torch
    from monai.transforms import Compose, Rand2DElasticd, RandFlipd, RandRotated, RandZoomd

    keys, size = ("image", "mask"), images.shape[-1]
    shift, spacing = _largest_shift(size), (size - 1) / (SETTINGS.elastic_nodes - 1)
    angle, scale = np.deg2rad(SETTINGS.rotation_degrees), SETTINGS.scale
    elastic = {"keys": keys, "spacing": (spacing, spacing), "magnitude_range": (0, shift), "prob": probability}
    elastic |= {"padding_mode": "zeros", "mode": "bilinear"}
    flip = RandFlipd(keys, spatial_axis=1, prob=probability)
    if chain:
        steps = [
            flip,
            RandRotated(keys, range_x=angle, prob=probability, mode="bilinear", padding_mode="zeros"),
            RandZoomd(
                keys,
                min_zoom=1 - scale,
                max_zoom=1 + scale,
                prob=probability,
                mode="bilinear",
                padding_mode="constant",
                align_corners=False,
            ),
            Rand2DElasticd(**elastic),
        ]
    else:
        steps = [flip, Rand2DElasticd(**elastic, rotate_range=angle, scale_range=(scale, scale))]
    compose = Compose(steps)
    compose.set_random_state(seed=0)
    members = [
        {"image": torch.from_numpy(image)[None].to(device), "mask": torch.from_numpy(mask)[None].to(device)}
        for image, mask in zip(images, masks, strict=True)
    ]
    return Form(compose, members, len(images))


def monai(images: np.ndarray, masks: np.ndarray, probability: float, device: str) -> Form:
    """MONAI, its random elastic transform with rotation and scaling inside: two passes, one interpolation."""
    return _monai(images, masks, probability, device, chain=False)


def monai_chain(images: np.ndarray, masks: np.ndarray, probability: float, device: str) -> Form:
    """MONAI, one transform after another."""
    return _monai(images, masks, probability, device, chain=True)


def torchio(images: np.ndarray, masks: np.ndarray, probability: float, device: str) -> Form:
    """TorchIO, whose images are volumes: here of one slice."""
    import torch
    import torchio as tio

    if device != "cpu":
        raise NotOffered("works on the CPU only")
    size, scale = images.shape[-1], SETTINGS.scale
    shift = _largest_shift(size)
    compose = tio.Compose(
        [
            tio.RandomFlip(axes=(1,), flip_probability=probability),
            tio.RandomAffine(
                scales=(1 - scale, 1 + scale, 1 - scale, 1 + scale, 1, 1),
                degrees=(0, 0, 0, 0, -SETTINGS.rotation_degrees, SETTINGS.rotation_degrees),
                default_pad_value=0,
                label_interpolation="linear",
                p=probability,
            ),
            tio.RandomElasticDeformation(
                num_control_points=(SETTINGS.elastic_nodes + 2,) * 2 + (4,),  # two of them lie outside the image
                max_displacement=(shift, shift, 0),
                locked_borders=0,
                label_interpolation="linear",
                p=probability,
            ),
        ]
    )
    members = [
        tio.Subject(
            image=tio.ScalarImage(tensor=torch.from_numpy(image)[None, ..., None]),
            mask=tio.ScalarImage(tensor=torch.from_numpy(mask)[None, ..., None]),
        )
        for image, mask in zip(images, masks, strict=True)
    ]
    return Form(compose, members, len(images))


def _albumentations(images: np.ndarray, masks: np.ndarray, probability: float, device: str, elastic: Callable) -> Form:
    import albumentations as A
    import cv2

    if device != "cpu":
        raise NotOffered("works on the CPU only")
    linear = {"interpolation": cv2.INTER_LINEAR, "mask_interpolation": cv2.INTER_LINEAR}
    compose = A.Compose(
        [
            A.HorizontalFlip(p=probability),
            A.Affine(
                rotate=(-SETTINGS.rotation_degrees, SETTINGS.rotation_degrees),
                scale=(1 - SETTINGS.scale, 1 + SETTINGS.scale),
                p=probability,
                **linear,
            ),
            elastic(A, p=probability, **linear),
        ],
        seed=0,
    )
    members = list(zip(images, masks, strict=True))
    return Form(lambda pair: compose(image=pair[0], mask=pair[1]), members, len(images))


def albumentations(images: np.ndarray, masks: np.ndarray, probability: float, device: str) -> Form:
    """albumentations, elastic deformation by a dense Gaussian field."""
    shift = _largest_shift(images.shape[-1])
    return _albumentations(
        images, masks, probability, device, lambda A, **rest: A.ElasticTransform(alpha=4 * shift, sigma=50, **rest)
    )


def albumentations_grid(images: np.ndarray, masks: np.ndarray, probability: float, device: str) -> Form:
    """albumentations, elastic deformation by the corners of a coarse grid, with straight lines between them."""
    cells, shift = SETTINGS.elastic_nodes - 1, round(_largest_shift(images.shape[-1]))
    return _albumentations(
        images,
        masks,
        probability,
        device,
        lambda A, **rest: A.GridElasticDeform(num_grid_xy=(cells, cells), magnitude=shift, **rest),
    )


def kornia(images: np.ndarray, masks: np.ndarray, probability: float, device: str) -> Form:
    """kornia, a batch at a time."""
    import kornia.augmentation as K
    import torch

    torch.manual_seed(0)
    sequence = K.AugmentationSequential(
        K.RandomHorizontalFlip(p=probability),
        K.RandomAffine(
            degrees=SETTINGS.rotation_degrees,
            scale=(1 - SETTINGS.scale, 1 + SETTINGS.scale),
            p=probability,
        ),
        K.RandomElasticTransform(p=probability),
        data_keys=["input", "input"],  # a "mask" would be looked up by nearest neighbour
    )
    members = _batches(images, masks, device)
    return Form(lambda both: sequence(both[:, :-1], both[:, -1:]), members, len(images))


def torchvision(images: np.ndarray, masks: np.ndarray, probability: float, device: str) -> Form:
    """torchvision's transforms v2."""
    import torch
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    torch.manual_seed(0)
    linear = v2.InterpolationMode.BILINEAR
    affine = v2.RandomAffine(
        degrees=SETTINGS.rotation_degrees, scale=(1 - SETTINGS.scale, 1 + SETTINGS.scale), interpolation=linear
    )
    elastic = v2.ElasticTransform(interpolation=linear)
    compose = v2.Compose(
        [
            v2.RandomHorizontalFlip(p=probability),
            v2.RandomApply([affine], p=probability),
            v2.RandomApply([elastic], p=probability),
        ]
    )
    members = [
        # A mask would be looked up by nearest neighbour.
        tuple(tv_tensors.Image(torch.from_numpy(array)[None].to(device)) for array in pair)
        for pair in zip(images, masks, strict=True)
    ]
    return Form(lambda pair: compose(*pair), members, len(images))


def batchgenerators(images: np.ndarray, masks: np.ndarray, probability: float, device: str) -> Form:
    """batchgeneratorsv2, nnU-Net's augmenter: one interpolation."""
    import torch
    from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
    from batchgeneratorsv2.transforms.utils.random import RandomTransform

    if device != "cpu":
        raise NotOffered("works on the CPU only")
    size, scale = images.shape[-1], SETTINGS.scale
    angle = float(np.deg2rad(SETTINGS.rotation_degrees))
    compose = ComposeTransforms(
        [
            SpatialTransform(
                (size, size),
                0,
                False,
                p_elastic_deform=probability,
                p_rotation=probability,
                rotation=(-angle, angle),
                p_scaling=probability,
                scaling=(1 - scale, 1 + scale),
                p_synchronize_scaling_across_axes=1,
            ),
            RandomTransform(MirrorTransform((1,)), apply_probability=probability),
        ]
    )
    members = [
        {"image": torch.from_numpy(image)[None], "regression_target": torch.from_numpy(mask)[None]}
        for image, mask in zip(images, masks, strict=True)
    ]
    return Form(lambda member: compose(**member), members, len(images))


FORMS = {
    "ours": ours,
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


def _warped(name: str, phantom: np.ndarray, form: Form) -> np.ndarray:
    """All channels of a phantom through one random transformation of a side."""
    import torch

    tensor = torch.from_numpy(phantom)
    if name == "ours":
        return form.transform(tensor[None])[0].numpy()
    if name == "our grid by OpenCV":
        raise NotOffered("interpolates as ours does")
    if name.startswith("MONAI"):
        return np.asarray(form.transform({"image": tensor, "mask": tensor[:1]})["image"])
    if name == "TorchIO":
        import torchio as tio

        subject = tio.Subject(image=tio.ScalarImage(tensor=tensor[..., None]))
        return form.transform(subject)["image"].data[..., 0].numpy()
    if name == "albumentations, coarse grid":
        raise NotOffered("takes no more than three channels at a time")
    if name == "albumentations":
        found = form.transform((np.ascontiguousarray(phantom.transpose(1, 2, 0)), phantom[0]))
        return found["image"].transpose(2, 0, 1)
    if name == "kornia":
        # One image whose last channel plays the mask; the others are warped as the image.
        return form.transform(torch.cat([tensor, tensor[:1]])[None])[0][0].numpy()
    if name == "torchvision v2":
        from torchvision import tv_tensors

        return form.transform((tv_tensors.Image(tensor),)).numpy()
    return form.transform({"image": tensor})["image"].numpy()


def _sharpness(name: str, size: int, draws: int) -> Work:
    """Contrast kept by each draw of a side's transformation; nothing is timed."""
    import torch

    phantom = line_pairs(size)

    def outcome() -> list[list[float]]:
        kept = []
        if name == CHAIN:
            for seed in range(draws):
                _, chained = warp_once_and_in_chain(torch.from_numpy(phantom)[None], SETTINGS, seed=seed)
                kept.append(contrast_kept(chained[0].numpy()).tolist())
            return kept
        form = FORMS[name](*(np.zeros((1, size, size), dtype=np.float32),) * 2, 1.0, "cpu")
        for _ in range(draws):
            kept.append(contrast_kept(_warped(name, phantom, form)).tolist())
        return kept

    return Work(lambda: None, 1, outcome)


CHAIN = "ours, in a chain"


def _side(name: str) -> Callable[..., Work]:
    def side(task: str, data: str = "", probability: float = 1.0, device: str = "cpu", **sizes: int) -> Work:
        if task == "sharpness":
            return _sharpness(name, **sizes)
        if name == CHAIN:
            raise NotOffered("for sharpness only")
        form = FORMS[name](*read_images(data), probability, device)

        def run() -> None:
            for member in form.members:
                form.transform(member)
            if device == "cuda":
                import torch

                torch.cuda.synchronize()

        return Work(run, form.images)

    return side


SIDES = {name: _side(name) for name in (*FORMS, CHAIN)}
ON_GPU = ("ours", "MONAI", "MONAI, in a chain", "kornia", "torchvision v2")


def run(rows: Rows, size, folder: Path) -> None:
    """Compare the augmentations, their speed and their sharpness."""
    import torch

    data = folder / "images.npz"
    write_images(data, size.images, size.image_size)
    cores = size.cores
    every = f"{cores} cores" if cores > 1 else "one core"
    cases = {"all four, one core": (1.0, 1, "cpu")}
    if cores > 1:
        cases[f"all four, {every}"] = (1.0, cores, "cpu")
    cases[f"each every other time, {every}"] = (0.5, cores, "cpu")
    with Sides(__name__, size.sides_of(SIDES)) as sides:
        if torch.cuda.is_available():
            cases["all four, GPU"] = (1.0, cores, "cuda")
        else:
            rows.missing(PART, "all four, GPU", "images a second", "ours", "no GPU", unit="1/s", better="higher")
        for case, (probability, threads, device) in cases.items():
            given = {"task": "speed", "data": str(data), "probability": probability, "device": device}
            units, failed = sides.prepare(given, threads)
            seconds, late = sides.alternate(units, rounds=size.rounds, block_s=size.block_s)
            for name, why in {**failed, **late}.items():
                if name != CHAIN:
                    rows.missing(PART, case, "images a second", name, why, unit="1/s", better="higher")
            for name, taken in seconds.items():
                rates = (1 / value for value in taken)
                rows.add(PART, case, "images a second", name, rates, unit="1/s", better="higher")
        given = {"task": "sharpness", "size": size.image_size, "draws": size.draws}
        units, failed = sides.prepare(given, cores)
        for name in units:
            try:
                kept = np.array(sides[name].ask("outcome"))
            except Exception as error:
                failed[name] = str(error)
                continue
            for frequency, values in zip(FREQUENCIES, kept.T, strict=True):
                case = f"{frequency:g} cycles a pixel"
                rows.add(PART, case, "contrast kept", name, values, better="higher")
        for name, why in failed.items():
            rows.missing(PART, "every frequency", "contrast kept", name, why, better="higher")
