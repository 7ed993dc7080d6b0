"""A library of tensors on the test driver's GPU, as torch or CuPy are on NVIDIA's."""

import ctypes

import numpy as np

from athanor.runtime import dlpack

DEFAULT = 1


def use(driver):
    """The driver's functions with the types of their arguments."""
    driver.cuMemAlloc_v2.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    driver.cuMemFree_v2.argtypes = (ctypes.c_void_p,)
    pointer = ctypes.c_void_p
    driver.cuMemcpyAsync.argtypes = (pointer, pointer, ctypes.c_size_t, pointer)
    for name in ("cuStreamSynchronize", "cuStreamDestroy_v2"):
        getattr(driver, name).argtypes = (ctypes.c_void_p,)
    driver.cuStreamWaitEvent.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint)
    driver.cuEventRecord.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
    driver.cuEventDestroy_v2.argtypes = (ctypes.c_void_p,)
    return driver


class Stream:
    """A stream of its own, as torch.cuda.Stream names it."""

    def __init__(self, driver):
        self.driver = driver
        made = ctypes.c_void_p()
        assert driver.cuStreamCreate(ctypes.byref(made), 1) == 0
        self.cuda_stream = made.value

    def synchronize(self):
        assert self.driver.cuStreamSynchronize(self.cuda_stream) == 0

    def close(self):
        self.driver.cuStreamDestroy_v2(self.cuda_stream)


def let_wait(driver, later, earlier):
    """Work on stream `later` from now on waits for that on `earlier`."""
    event = ctypes.c_void_p()
    driver.cuEventCreate(ctypes.byref(event), 2)
    driver.cuEventRecord(event, earlier)
    driver.cuStreamWaitEvent(later, event, 0)
    driver.cuEventDestroy_v2(event)


class CudaArray:
    """An array on the GPU that is written and read on one stream, as DLPack wants it."""

    def __init__(self, driver, array, stream=DEFAULT, device=0, strides=None, is_old=False):
        self.driver, self.stream = driver, stream
        self.like, self.device, self.is_old = array, device, is_old
        pointer = ctypes.c_void_p()
        driver.cuCtxPushCurrent_v2(None)
        assert driver.cuMemAlloc_v2(ctypes.byref(pointer), max(1, array.nbytes)) == 0
        driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
        self.pointer = pointer.value
        self.host = np.ascontiguousarray(array)
        # queued: not there before somebody waits
        driver.cuMemcpyAsync(self.pointer, self.host.ctypes.data, array.nbytes, stream)
        code = dlpack.Tensor().dtype.__class__(*_type(array.dtype), 1)
        self.dims = (ctypes.c_int64 * array.ndim)(*array.shape)
        steps = strides or [step // array.itemsize for step in self.host.strides]
        self.steps = (ctypes.c_int64 * array.ndim)(*steps)
        self.managed = dlpack._Managed() if is_old else dlpack._Versioned(1, 0)
        self.managed.tensor = dlpack.Tensor(
            self.pointer, 2, device, array.ndim, code, self.dims, self.steps, 0
        )
        self.given_back = 0
        self.managed.deleter = ctypes.cast(self._keep_deleter(), ctypes.c_void_p)

    def _keep_deleter(self):
        def delete(_managed):
            self.given_back += 1

        self.deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(delete)
        return self.deleter

    def __dlpack_device__(self):
        return 2, self.device

    def __dlpack__(self, *, stream=None, **options):
        if self.is_old and options:
            raise TypeError(f"unexpected {list(options)}")
        assert stream != 0
        stream = DEFAULT if stream is None else stream
        if stream not in (-1, self.stream):
            let_wait(self.driver, stream, self.stream)
        return dlpack.capsule(ctypes.addressof(self.managed), not self.is_old)

    def numpy(self):
        """What the array's own stream has written there."""
        made = np.empty(self.like.shape, self.like.dtype)
        self.driver.cuMemcpyAsync(made.ctypes.data, self.pointer, made.nbytes, self.stream)
        self.driver.cuStreamSynchronize(self.stream)
        return made

    def free(self):
        self.driver.cuMemFree_v2(self.pointer)


def _type(dtype):
    from athanor.runtime.dtypes import dlpack_type

    return dlpack_type(dtype)


class Consumer:
    """Reads a tensor of another library's on a stream, in place."""

    def __init__(self, driver, value, stream=DEFAULT, **options):
        self.driver, self.stream = driver, stream
        self.capsule = value.__dlpack__(stream=stream, **options)
        self.imported = dlpack.Imported(self.capsule)

    def numpy(self):
        made = np.empty(self.imported.shape, np.float32)
        driver = self.driver
        driver.cuMemcpyAsync(made.ctypes.data, self.imported.address, made.nbytes, self.stream)
        driver.cuStreamSynchronize(self.stream)
        return made
