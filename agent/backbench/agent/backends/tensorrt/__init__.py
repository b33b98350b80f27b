"""TensorRT and TensorRT for RTX: one implementation over the calls that both have, from 8.5 on."""
