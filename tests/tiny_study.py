"""A tiny study, trained in this process by the steps of the notebooks."""

import torch

from l3muscle.experiment import build_network, experiment_seed, predict, source_loop, source_seed, target_loop
from l3muscle.models import transfer_weights
from l3muscle.pretext import SOURCE_TASKS
from l3muscle.runtime import begin_training
from l3muscle.study import Study
from l3muscle.training import fit

TINY = {
    "cohort": {"patients": 14, "test_patients": 4, "size": 128},
    "image": {"shape": [32, 40]},
    "training": {"max_steps": 6, "validate_every": 3},
    "sources": {"segmentation": {"steps": 4, "validate_every": 2, "batch_size": 2, "validation_scenes": 2}},
    "grid": {"source_tasks": ["random", "segmentation"], "sizes": [2, 4], "folds": 2, "subsets": 1, "repeats": 1},
}


def train_all(study: Study) -> None:
    """Train all that is missing, by the steps of the notebooks `pretrain` and `experiment`, and score it."""
    study.make_phantom()
    study.write_plan()
    settings = study.profile
    device = begin_training(settings)
    for source_task in settings.grid.source_tasks:
        if study.has_source(source_task):
            continue
        seed = source_seed(settings, source_task)
        torch.manual_seed(seed)
        images = study.prepared.source_images
        network, task = SOURCE_TASKS[source_task].build(settings, images, seed=seed, device=device)
        loop = source_loop(settings, source_task, device)
        fitted = fit(network, task, loop, generator=torch.Generator().manual_seed(seed))
        network.load_state_dict(fitted.weights)
        study.store_source(source_task, fitted.weights, fitted=fitted, task=task, network=network)
    for model in study.keys:
        if study.is_done(model):
            continue
        torch.manual_seed(experiment_seed(settings, model))
        network = build_network(settings)
        source_weights = study.source_weights(model.source_task)
        if source_weights is not None:
            transfer_weights(source_weights, network)
        loop = target_loop(settings, device, fine_tuned=source_weights is not None)
        generator = torch.Generator().manual_seed(experiment_seed(settings, model))
        with study.recording(model) as checkpoint:
            fitted = fit(network, study.task(model, device), loop, generator=generator, checkpoint=checkpoint)
            network.load_state_dict(fitted.weights)
            study.store_model(model, fitted, predict(network, study.prepared, device))
    study.scores([model for model in study.keys if study.is_done(model)])
