"""FCN-ResNets, and carrying weights from a source task into one of them (Sections 2.2 and 2.3).

ResNet-50 and ResNet-101 are torchvision's own modules. torchvision's BasicBlock refuses dilation and its widths are
fixed, so the smaller networks are built here with the same parameter names: a state dict of torchvision's `resnet18`
loads into `build_fcn("resnet18").backbone` key by key.

EfficientNet-Lite0 is `timm`'s: of the networks whose ImageNet weights are published, one that two cores can fine-tune.

Lineage: Long et al. 2015 (fully convolutional networks), He et al. 2016 (ResNet), torchvision's reference FCN
(dilated backbone of output stride 8, a head of one 3 x 3 convolution at a quarter of the width).
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from l3muscle.errors import L3MuscleError

# ResNet-8 has the three stages that He et al. (2016, Section 4.2) give a ResNet for small images; the others have four.
BASIC_LAYERS = {"resnet8": (1, 1, 1), "resnet10": (1, 1, 1, 1), "resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
BOTTLENECKS = ("resnet50", "resnet101")
EFFICIENTNETS = ("efficientnet_lite0",)
# By which images in [0, 1] are normalised, for every network: published weights expect it.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
BACKBONES = (*BASIC_LAYERS, *BOTTLENECKS, *EFFICIENTNETS)


class NetworkError(L3MuscleError):
    """A network that this installation cannot build."""


class TransferError(L3MuscleError):
    """A checkpoint that does not belong to this network."""


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut (He et al. 2016, Figure 5 left), with optional dilation."""

    def __init__(self, in_channels: int, channels: int, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, dilation, dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.stride = stride
        self.downsample = None
        if stride != 1 or in_channels != channels:
            # Every second pixel is taken before this convolution instead of by it: the same function. oneDNN's strided
            # 1 x 1 convolution writes past its buffer where there are fewer channels than a vector register holds.
            self.downsample = nn.Sequential(nn.Conv2d(in_channels, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x[..., :: self.stride, :: self.stride])
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + shortcut)


def _basic_encoder(layers: tuple[int, ...], width: int, output_stride: int) -> nn.Sequential:
    """ResNet of basic blocks without its classifier: (N, 3, H, W) -> (N, channels, H / stride, W / stride)."""
    modules: dict[str, nn.Module] = {
        "conv1": nn.Conv2d(3, width, 7, 2, 3, bias=False),
        "bn1": nn.BatchNorm2d(width),
        "relu": nn.ReLU(inplace=True),
    }
    if output_stride == 8:
        # At output stride 4 the pooling is left out, as is usual for small images: see `build_fcn`.
        modules["maxpool"] = nn.MaxPool2d(3, 2, 1)
    in_channels = width
    for stage, blocks in enumerate(layers):
        channels = width * 2**stage
        stride, first_dilation, dilation = 2 if stage == 1 else 1, (1, 1, 1, 2)[stage], (1, 1, 2, 4)[stage]
        if len(layers) == 3:
            # torchvision dilates a stage from its second block on; the first keeps the dilation of the stage before.
            # With one block a stage, ResNet-8 would never look further than its strides do.
            first_dilation = dilation
        if output_stride == 2:
            stride, first_dilation, dilation = 2 if stage else 1, 1, 1
        members = []
        for index in range(blocks):
            members.append(
                BasicBlock(
                    in_channels,
                    channels,
                    stride=stride if index == 0 else 1,
                    dilation=first_dilation if index == 0 else dilation,
                )
            )
            in_channels = channels
        modules[f"layer{stage + 1}"] = nn.Sequential(*members)
    return nn.Sequential(OrderedDict(modules))


def _enlarged_sum(features: Iterable[Tensor]) -> Tensor:
    """Sum of feature maps (N, C, h, w), the finest first, at the size of the finest."""
    fine, *coarser = features
    for part in coarser:
        fine = fine + F.interpolate(part, size=fine.shape[-2:], mode="bilinear", align_corners=False)
    return fine


class PyramidEncoder(nn.Module):
    """ResNet of basic blocks that halves its features stage by stage, for dense prediction at output stride 2.

    Instead of dilating the later stages, the features of all of them are each brought to twice the width by a 1 x 1
    convolution, enlarged, and added, as the skips of Long et al. 2015 are: outlines as fine as the first stage sees
    them, for less than half the multiplications of output stride 4.
    """

    def __init__(self, layers: tuple[int, ...], width: int) -> None:
        super().__init__()
        for name, module in _basic_encoder(layers, width, 2).named_children():
            self.add_module(name, module)
        self.stages = [f"layer{stage + 1}" for stage in range(len(layers))]
        self.out_channels = 2 * width
        channels = (width * 2**stage for stage in range(len(layers)))
        self.skips = nn.ModuleList(nn.Conv2d(own, self.out_channels, 1) for own in channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        features = []
        for name, skip in zip(self.stages, self.skips, strict=True):
            x = self.get_submodule(name)(x)
            features.append(skip(x))
        return _enlarged_sum(features)


class EfficientNetEncoder(nn.Module):
    """EfficientNet-Lite0 (Tan and Le 2019, without attention) for dense prediction at output stride 4.

    Its features at strides 4, 8 and 16 are each brought to `width` channels by a 1 x 1 convolution, enlarged, and
    added, as the skips of Long et al. 2015 are. The stages that follow, at stride 32, are left out.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        # Imported where it is needed: it takes seconds, which every worker of another network would pay.
        try:
            import timm
        except ImportError:
            raise NetworkError(
                "EfficientNet-Lite0 needs timm, which is missing; pip install -e '.[natural]' in the checkout gets it"
            ) from None

        stages = {"out_indices": (1, 2, 3)}
        self.features = timm.create_model("tf_efficientnet_lite0", pretrained=False, features_only=True, **stages)
        del self.features.blocks[5:]
        self.skips = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in self.features.feature_info.channels())
        self.out_channels = width
        # It was learned on pixels of -1 to 1, and not on those that ImageNet's mean and deviation give.
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        self.register_buffer("gain", 2 * std, persistent=False)
        self.register_buffer("shift", 2 * mean - 1, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.gain + self.shift
        return _enlarged_sum(skip(part) for skip, part in zip(self.skips, self.features(x), strict=True))


def build_encoder(backbone: str, *, width: int = 64, output_stride: int = 8) -> nn.Module:
    """Build a ResNet or EfficientNet-Lite0 without its classifier, dilated for dense prediction.

    Parameters
    ----------
    backbone : str
        One of `BACKBONES`.
    width : int
        Channels after the first convolution; 64 is the published width, and the only one for ResNet-50 and -101.
        Multiples of 8 are fastest. Of EfficientNet-Lite0, whose own widths are fixed, the channels of its output.
    output_stride : {2, 4, 8}
        Pixels of input per pixel of output. 8 is torchvision's FCN. 4 leaves out the max-pooling, for small images;
        the networks of basic blocks have it, and it is the only one of EfficientNet-Lite0. 2 is for basic blocks, and
        another network: see `PyramidEncoder`.

    Returns
    -------
    nn.Module
        (N, 3, H, W) -> (N, channels, ceil(H / output_stride), ceil(W / output_stride)), submodules named as in
        torchvision (`conv1`, `bn1`, `layer1` ...); its attribute `out_channels` holds the channels.

    Raises
    ------
    ValueError
        For an unknown name or an unsupported combination.
    NetworkError
        If the library that has this network is not installed.
    """
    if output_stride not in (2, 4, 8):
        raise ValueError(f"output_stride must be 2, 4 or 8, not {output_stride}")
    if width < 1:
        raise ValueError(f"width must be positive, not {width}")
    if backbone in BASIC_LAYERS and output_stride == 2:
        encoder = PyramidEncoder(BASIC_LAYERS[backbone], width)
    elif backbone in BASIC_LAYERS:
        encoder = _basic_encoder(BASIC_LAYERS[backbone], width, output_stride)
        encoder.out_channels = width * 2 ** (len(BASIC_LAYERS[backbone]) - 1)
    elif backbone in BOTTLENECKS:
        if width != 64 or output_stride != 8:
            raise ValueError(f"{backbone} is torchvision's network: width 64 and output stride 8 only")
        # Imported where it is needed: it takes seconds, which every worker of a small network would pay.
        from torchvision.models import get_model

        network = get_model(backbone, weights=None, replace_stride_with_dilation=[False, True, True])
        kept = OrderedDict((n, m) for n, m in network.named_children() if n not in ("avgpool", "fc"))
        encoder = nn.Sequential(kept)
        encoder.out_channels = 2048
    elif backbone in EFFICIENTNETS:
        if output_stride != 4:
            raise ValueError(f"{backbone} has an output stride of 4, not {output_stride}")
        encoder = EfficientNetEncoder(width)
    else:
        raise ValueError(f"unknown backbone {backbone!r}; choose one of {', '.join(BACKBONES)}")
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d) and backbone not in EFFICIENTNETS:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return encoder


class FCN(nn.Module):
    """Fully convolutional network: backbone, head, bilinear upsampling to the size of the input.

    Parameters
    ----------
    encoder : nn.Sequential
        From `build_encoder`.
    out_channels : int
        Channels of the output: 1 for muscle, 3 for reconstruction, one a class for a segmentation source task.
    """

    def __init__(self, encoder: nn.Sequential, *, out_channels: int = 1) -> None:
        super().__init__()
        self.backbone = encoder
        # torchvision's FCN head: 3 x 3 convolution to a quarter of the channels, then 1 x 1 to the output.
        middle = encoder.out_channels // 4
        self.classifier = nn.Sequential(
            nn.Conv2d(encoder.out_channels, middle, 3, padding=1, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Conv2d(middle, out_channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, H, W) to logits (N, out_channels, H, W)."""
        size = x.shape[-2:]
        logits = self.classifier(self.backbone(x))  # (N, out_channels, H / stride, W / stride)
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def build_fcn(backbone: str = "resnet101", *, width: int = 64, output_stride: int = 8, out_channels: int = 1) -> FCN:
    """Build a randomly initialised FCN-ResNet; parameters are named as in torchvision's `fcn_resnet101`.

    Parameters
    ----------
    backbone, width, output_stride
        See `build_encoder`.
    out_channels : int
        Channels of the logits; 1 for the target task.

    Returns
    -------
    FCN
        (N, 3, H, W) -> logits (N, out_channels, H, W).

    Raises
    ------
    ValueError
        As `build_encoder`.
    """
    return FCN(build_encoder(backbone, width=width, output_stride=output_stride), out_channels=out_channels)


@dataclass(frozen=True)
class TransferReport:
    """What `transfer_weights` did.

    Attributes
    ----------
    moved : tuple of str
        Names, in the target network, of the tensors that were copied.
    not_moved : dict of str to str
        Names in the checkpoint that are not used, with the reason.
    left_random : tuple of str
        Names in the target network that kept their random initialisation.
    """

    moved: tuple[str, ...]
    not_moved: dict[str, str]
    left_random: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{len(self.moved)} tensors moved, {len(self.not_moved)} of the checkpoint not used, "
            f"{len(self.left_random)} of the network left random"
        )


def transfer_weights(state_dict: Mapping[str, Tensor], model: FCN) -> TransferReport:
    """Copy every tensor that the checkpoint and `model` share, batch-norm statistics included (Section 2.3).

    A checkpoint of a plain ResNet (`conv1.weight` ...) goes into the backbone, one of an FCN (`backbone.*`,
    `classifier.*`) into both. A head of another shape, made for other classes, stays random and is reported.

    Parameters
    ----------
    state_dict : mapping of str to Tensor
        Of the source network.
    model : FCN
        The target network; changed in place, and only if the whole checkpoint is sound.

    Returns
    -------
    TransferReport

    Raises
    ------
    TransferError
        If nothing fits (a foreign checkpoint), if a backbone tensor has another shape (another architecture), or if
        a value is not a tensor or not finite.
    """
    target = model.state_dict()
    moves: dict[str, Tensor] = {}
    not_moved: dict[str, str] = {}
    for name, value in state_dict.items():
        if not isinstance(value, Tensor):
            raise TransferError(f"the checkpoint holds {name!r}, which is a {type(value).__name__} and not a tensor")
        target_name = name if name in target else f"backbone.{name}"
        if target_name not in target:
            not_moved[name] = "the target network has no such layer"
        elif value.shape != target[target_name].shape:
            shapes = f"shape {tuple(value.shape)} in the checkpoint, {tuple(target[target_name].shape)} in the network"
            if target_name.startswith("backbone."):
                raise TransferError(f"the checkpoint is of another architecture: {name!r} has {shapes}")
            not_moved[name] = shapes
        elif value.is_floating_point() and not torch.isfinite(value).all():
            raise TransferError(f"the checkpoint is damaged: {name!r} holds values that are not finite")
        else:
            moves[target_name] = value
    if not any(target_name.startswith("backbone.") for target_name in moves):
        raise TransferError("the checkpoint is foreign: none of its tensors fits the backbone by name and shape")
    with torch.no_grad():
        for target_name, value in moves.items():
            target[target_name].copy_(value)
    left_random = tuple(name for name in target if name not in moves)
    return TransferReport(tuple(moves), not_moved, left_random)
