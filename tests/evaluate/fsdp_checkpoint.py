"""A checkpoint as verl's FSDP actor saves it, by verl's own checkpoint manager:

python -m torch.distributed.run --nproc-per-node 2 tests/evaluate/fsdp_checkpoint.py MODEL RUN/global_step_3/actor
"""

import sys

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(model_folder: str, actor: str) -> None:
    torch.distributed.init_process_group("gloo")
    from verl.utils.checkpoint.fsdp_checkpoint_manager import FSDPCheckpointManager

    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),), mesh_dim_names=("fsdp",))
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters())
    manager = FSDPCheckpointManager(
        model=model,
        optimizer=optimizer,
        lr_scheduler=torch.optim.lr_scheduler.ConstantLR(optimizer),
        processing_class=AutoTokenizer.from_pretrained(model_folder),
    )
    manager.save_checkpoint(local_path=actor, global_step=3)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
