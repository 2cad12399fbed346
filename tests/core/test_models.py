"""Networks and the transfer of weights, key by key against torchvision."""

import pytest
import torch
import torchvision

from l3muscle.models import BACKBONES, BasicBlock, TransferError, build_fcn, build_trunk, transfer_weights


@pytest.fixture(scope="module")
def resnet18_checkpoint():
    torch.manual_seed(1)
    network = torchvision.models.resnet18(weights=None)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.num_batches_tracked.fill_(7)
    return network.state_dict()


@pytest.mark.parametrize(("name", "stride"), [("resnet10", 4), ("resnet18", 8), ("resnet34", 8), ("resnet50", 8)])
def test_logits_have_the_size_of_the_input(name, stride):
    network = build_fcn(name, output_stride=stride, out_channels=3).eval()
    image = torch.zeros(1, 3, 50, 67)
    with torch.inference_mode():
        assert network(image).shape == (1, 3, 50, 67)
        assert network.backbone(image).shape[-2:] == (-(-50 // stride), -(-67 // stride))


def test_parameters_are_named_and_shaped_as_in_torchvision():
    ours = build_fcn().state_dict()  # resnet101 is what one gets without asking
    theirs = torchvision.models.segmentation.fcn_resnet101(
        weights=None, weights_backbone=None, num_classes=1, aux_loss=False
    ).state_dict()
    assert {name: value.shape for name, value in ours.items()} == {n: v.shape for n, v in theirs.items()}


def test_resnet101_computes_what_torchvision_computes():
    theirs = torchvision.models.segmentation.fcn_resnet101(
        weights=None, weights_backbone=None, num_classes=1, aux_loss=False
    ).eval()
    ours = build_fcn("resnet101").eval()
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(ours(image), theirs(image)["out"])


def test_undilated_basic_network_computes_what_torchvision_computes(resnet18_checkpoint):
    theirs = torchvision.models.resnet18(weights=None).eval()
    theirs.load_state_dict(resnet18_checkpoint)
    ours = build_trunk("resnet18").eval()
    ours.load_state_dict({k: v for k, v in resnet18_checkpoint.items() if not k.startswith("fc.")})
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    # Only the first two stages agree by value: the last two are dilated here instead of strided.
    with torch.inference_mode():
        expected = theirs.layer2(theirs.layer1(theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))))
        got = image
        for name, module in ours.named_children():
            if name == "layer3":
                break
            got = module(got)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_convolution_gets_a_gradient(name):
    torch.manual_seed(0)
    network = build_fcn(name)
    network(torch.randn(2, 3, 32, 32)).square().mean().backward()
    silent = [n for n, p in network.named_parameters() if p.grad is None or (p.ndim == 4 and not p.grad.any())]
    assert silent == []


def test_classification_checkpoint_moves_key_by_key(resnet18_checkpoint):
    network = build_fcn("resnet18")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    report = transfer_weights(resnet18_checkpoint, network)
    after = network.state_dict()
    for name, value in resnet18_checkpoint.items():
        if name.startswith("fc."):
            assert name in report.not_moved
        else:
            assert torch.equal(after[f"backbone.{name}"], value), name
            assert f"backbone.{name}" in report.moved
    assert set(report.left_random) == {name for name in before if name.startswith("classifier.")}
    assert all(torch.equal(after[name], before[name]) for name in report.left_random)


def test_segmentation_checkpoint_moves_all_but_its_classes():
    torch.manual_seed(2)
    source = build_fcn("resnet10", width=8, out_channels=21)
    checkpoint = {**source.state_dict(), "aux_classifier.0.weight": torch.zeros(2)}
    network = build_fcn("resnet10", width=8)
    report = transfer_weights(checkpoint, network)
    assert set(report.not_moved) == {"classifier.4.weight", "classifier.4.bias", "aux_classifier.0.weight"}
    assert "(21, 16, 1, 1)" in report.not_moved["classifier.4.weight"]
    assert set(report.left_random) == {"classifier.4.weight", "classifier.4.bias"}
    assert torch.equal(network.classifier[0].weight, source.classifier[0].weight)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: {"encoder." + k: v for k, v in c.items()}, "foreign"),
        (lambda c: {**c, "conv1.weight": torch.zeros(8, 3, 7, 7)}, "another architecture"),
        (lambda c: {**c, "conv1.weight": torch.full((64, 3, 7, 7), torch.nan)}, "not finite"),
        (lambda c: {**c, "epoch": 3}, "not a tensor"),
        (lambda c: {}, "foreign"),
    ],
)
def test_refused_checkpoints_leave_the_network_untouched(resnet18_checkpoint, damage, message):
    network = build_fcn("resnet18")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(TransferError, match=message):
        transfer_weights(damage(dict(resnet18_checkpoint)), network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": "vgg16"},
        {"name": "resnet101", "output_stride": 4},
        {"name": "resnet18", "output_stride": 2},
        {"name": "resnet18", "width": 4},
    ],
)
def test_unsupported_networks_are_refused(arguments):
    with pytest.raises(ValueError):
        build_fcn(**arguments)


def test_a_transfer_says_why_each_tensor_stayed_behind(resnet18_checkpoint):
    report = transfer_weights(resnet18_checkpoint, build_fcn("resnet18"))
    assert set(report.not_moved.values()) == {"the target network has no such layer"}
    with pytest.raises(TransferError, match="^the checkpoint holds 'epoch', which is a int and not a tensor$"):
        transfer_weights({**resnet18_checkpoint, "epoch": 3}, build_fcn("resnet18"))
    with pytest.raises(TransferError, match="^the checkpoint is foreign: none"):
        transfer_weights({}, build_fcn("resnet18"))


@pytest.mark.parametrize(
    ("name", "blocks", "dilations"),
    [
        # Dilation of the first block of each stage, and of those after it.
        ("resnet8", (1, 1, 1), ((1,), (1,), (2,))),
        ("resnet10", (1, 1, 1, 1), ((1,), (1,), (1,), (2,))),
        ("resnet18", (2, 2, 2, 2), ((1, 1), (1, 1), (1, 2), (2, 4))),
        ("resnet34", (3, 4, 6, 3), ((1, 1, 1), (1, 1, 1, 1), (1, 2, 2, 2, 2, 2), (2, 4, 4))),
    ],
)
@pytest.mark.parametrize("stride", [4, 8])
def test_basic_networks_are_built_as_the_papers_have_them(name, blocks, dilations, stride):
    trunk = build_trunk(name, width=16, output_stride=stride)
    names = [child for child, _ in trunk.named_children()]
    stages = [f"layer{place + 1}" for place in range(len(blocks))]
    assert names == ["conv1", "bn1", "relu", *(["maxpool"] if stride == 8 else []), *stages]
    assert trunk.out_channels == 16 * 2 ** (len(blocks) - 1)
    first = trunk.conv1
    assert (first.in_channels, first.out_channels, first.kernel_size, first.stride) == (3, 16, (7, 7), (2, 2))
    assert first.padding == (3, 3) and first.bias is None
    if stride == 8:
        assert (trunk.maxpool.kernel_size, trunk.maxpool.stride, trunk.maxpool.padding) == (3, 2, 1)
    channels = 16
    for place, stage in enumerate(stages):
        width = 16 * 2**place
        members = getattr(trunk, stage)
        assert len(members) == blocks[place]
        for index, (block, dilation) in enumerate(zip(members, dilations[place], strict=True)):
            strided = place == 1 and index == 0  # the only stage that is not dilated instead
            assert block.conv1.stride == ((2, 2) if strided else (1, 1)) and block.conv2.stride == (1, 1)
            for convolution, incoming in ((block.conv1, channels), (block.conv2, width)):
                assert (convolution.in_channels, convolution.out_channels) == (incoming, width)
                assert convolution.kernel_size == (3, 3) and convolution.bias is None
                assert convolution.dilation == convolution.padding == (dilation, dilation)
            assert (block.downsample is None) == (not strided and channels == width)
            if block.downsample is not None:
                assert block.downsample[0].kernel_size == (1, 1) and block.downsample[0].bias is None
                assert block.downsample[0].stride == block.conv1.stride
            channels = width


def test_a_basic_block_adds_its_shortcut_before_the_last_activation():
    torch.manual_seed(3)
    ours, theirs = BasicBlock(8, 16, stride=2).eval(), torchvision.models.resnet.BasicBlock(8, 16, 2).eval()
    theirs.downsample = torch.nn.Sequential(torch.nn.Conv2d(8, 16, 1, 2, bias=False), torch.nn.BatchNorm2d(16)).eval()
    theirs.load_state_dict(ours.state_dict())
    image = torch.randn(2, 8, 9, 9)
    torch.testing.assert_close(ours(image), theirs(image))
    for block in (BasicBlock(8, 8), BasicBlock(8, 8, dilation=3)):
        assert block.downsample is None
        assert block(image).shape == image.shape
    assert BasicBlock(8, 8, stride=2).downsample is not None


def test_the_head_is_torchvisions_with_as_many_outputs_as_asked_for():
    head = build_fcn("resnet18", out_channels=5).classifier
    theirs = torchvision.models.segmentation.fcn.FCNHead(512, 5)
    assert str(torch.nn.Sequential(*head)) == str(torch.nn.Sequential(*theirs))
    assert build_fcn("resnet8", width=16, output_stride=4).classifier[4].out_channels == 1


def test_logits_are_enlarged_bilinearly_between_the_centres_of_pixels():
    network = build_fcn("resnet8", width=8, output_stride=4).eval()
    image = torch.randn(1, 3, 21, 30, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        small = network.classifier(network.backbone(image))
        large = torch.nn.functional.interpolate(small, size=(21, 30), mode="bilinear", align_corners=False)
        assert small.shape == (1, 1, 6, 8)
        assert torch.equal(network(image), large)


def test_convolutions_of_the_trunk_begin_as_he_initialised_them():
    torch.manual_seed(4)
    for name, module in build_trunk("resnet18").named_modules():
        if isinstance(module, torch.nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            spread = float(module.weight.detach().std()) / (2 / fan_out) ** 0.5
            assert spread == pytest.approx(1, abs=5 / (2 * module.weight.numel()) ** 0.5), name


def test_by_default_a_basic_network_has_the_published_width_and_stride():
    trunk = build_trunk("resnet10")
    assert trunk.conv1.out_channels == 64 and hasattr(trunk, "maxpool")
    network = build_fcn("resnet10")
    assert network.backbone.conv1.out_channels == 64 and hasattr(network.backbone, "maxpool")
    assert network.classifier[4].out_channels == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "vgg16"}, "^unknown backbone 'vgg16'; choose one of resnet8, resnet10, .*resnet50, resnet101$"),
        ({"name": "resnet18", "output_stride": 16}, "^output_stride must be 4 or 8, not 16$"),
        ({"name": "resnet18", "width": 60}, "^width must be a multiple of 8, not 60$"),
        (
            {"name": "resnet101", "output_stride": 4},
            "^resnet101 is torchvision's network: width 64 and output stride 8",
        ),
        ({"name": "resnet50", "width": 32}, "^resnet50 is torchvision's network: width 64 and output stride 8 only$"),
    ],
)
def test_a_refusal_says_what_there_is(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_trunk(**arguments)


def test_a_report_counts_what_moved_what_did_not_and_what_stayed_random(resnet18_checkpoint):
    network = build_fcn("resnet18")
    report = transfer_weights(resnet18_checkpoint, network)
    moved = len(resnet18_checkpoint) - 2  # all but the classifier's weight and bias
    head = len(network.classifier.state_dict())
    assert str(report) == f"{moved} tensors moved, 2 of the checkpoint not used, {head} of the network left random"
    assert list(report.moved) == [f"backbone.{name}" for name in resnet18_checkpoint if not name.startswith("fc.")]


def test_a_head_that_fits_moves_but_does_not_make_a_foreign_checkpoint_fit():
    torch.manual_seed(5)
    source, network = build_fcn("resnet8", width=8), build_fcn("resnet8", width=8)
    head = {name: value for name, value in source.state_dict().items() if name.startswith("classifier.")}
    with pytest.raises(TransferError, match="none of its tensors fits the backbone by name and shape$"):
        transfer_weights(head, network)
    one = "backbone.conv1.weight"
    report = transfer_weights({**head, one: source.state_dict()[one]}, network)
    assert report.moved == (*head, one) and report.not_moved == {}
    assert report.left_random == tuple(name for name in network.state_dict() if name not in report.moved)
    assert torch.equal(network.classifier[4].weight, source.classifier[4].weight)


def test_refusals_name_the_tensor_and_what_is_wrong_with_it(resnet18_checkpoint):
    network = build_fcn("resnet18")
    for place, value, message in (
        (
            "bn1.bias",
            torch.zeros(7),
            r"another architecture: 'bn1.bias' has shape \(7,\) in the checkpoint, \(64,\) in",
        ),
        ("bn1.bias", torch.full((64,), torch.inf), "^the checkpoint is damaged: 'bn1.bias' holds values that are not"),
        ("bn1.bias", [1.0], "^the checkpoint holds 'bn1.bias', which is a list and not a tensor$"),
    ):
        with pytest.raises(TransferError, match=message):
            transfer_weights({**resnet18_checkpoint, place: value}, network)
    # A tensor that finds no place may hold anything.
    report = transfer_weights({**resnet18_checkpoint, "fc.bias": torch.full((3,), torch.nan)}, network)
    assert "fc.bias" in report.not_moved
