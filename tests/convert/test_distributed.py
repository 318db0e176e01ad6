"""Two processes train an accelerated model as they train torch's own."""

import pytest
import torch

import atrous

WHEN = ("never", "before", "after")


def train(rank, store, results):
    """Take two steps, accelerated before or after the wrapper goes around the model, and keep what was learned."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    try:
        for when in WHEN:
            torch.manual_seed(0)
            model = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3, groups=4), torch.nn.ReLU(), torch.nn.Conv2d(4, 9, 1))
            if when == "before":
                atrous.accelerate(model)
            wrapped = torch.nn.parallel.DistributedDataParallel(model)
            if when == "after":
                atrous.accelerate(wrapped)
            optimizer = torch.optim.SGD(wrapped.parameters(), 0.1)
            generator = torch.Generator().manual_seed(1 + rank)
            for _ in range(2):
                optimizer.zero_grad()
                wrapped(torch.randn(2, 4, 6, 7, generator=generator)).square().mean().backward()
                optimizer.step()
            kinds = {type(module).__module__ for module in model}
            assert ("atrous.nn.conv" in kinds) == (when != "never")
            torch.save(model.state_dict(), f"{results}/{when}-{rank}.pt")
        torch.distributed.barrier()  # else one process may close what the other still reads
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_two_processes(tmp_path):
    torch.multiprocessing.spawn(train, (str(tmp_path / "store"), str(tmp_path)), nprocs=2)
    learned = {path.stem: torch.load(path, weights_only=True) for path in tmp_path.glob("*.pt")}
    assert len(learned) == 2 * len(WHEN)
    for when in WHEN:
        torch.testing.assert_close(learned[f"{when}-0"], learned["never-0"])
        # Gradients are averaged: both processes hold the same bits.
        assert all(map(torch.equal, learned[f"{when}-0"].values(), learned[f"{when}-1"].values()))
