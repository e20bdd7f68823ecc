"""A data set of the file's own in the spawned workers of a DataLoader."""

import torch
from torch.utils.data import DataLoader, Dataset


class Numbers(Dataset):
    def __init__(self, factor):
        self.factor = factor

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.tensor(float(index * self.factor))


def collate(rows):
    return torch.stack(rows).sum()


def objective(trial):
    data = Numbers(trial.suggest_int("factor", 1, 5))
    loader = DataLoader(
        data, batch_size=4, num_workers=1, collate_fn=collate, multiprocessing_context="spawn"
    )
    return float(sum(loader))
