/* A stand-in for the CUDA driver that writes the calls it gets to a file, and fails at the one that is named. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int note(const char *name, const void *address, size_t number) {
    FILE *log = fopen(getenv("TFOS_TEST_CUDA_LOG"), "a");
    fprintf(log, "%s %zu %zu\n", name, (size_t)address, number);
    fclose(log);
    const char *bad = getenv("TFOS_TEST_CUDA_FAILS");
    return bad && !strcmp(bad, name) ? 999 : 0;
}

int cuInit(unsigned flags) { return note("cuInit", 0, flags); }
int cuDeviceGetCount(int *count) { *count = atoi(getenv("TFOS_TEST_CUDA_GPUS")); return note("cuDeviceGetCount", 0, 0); }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) {
    *context = (void *)(size_t)(0x1122334455667700 + device);
    return note("cuDevicePrimaryCtxRetain", 0, device);
}
int cuDevicePrimaryCtxRelease_v2(int device) { return note("cuDevicePrimaryCtxRelease", 0, device); }
int cuCtxPushCurrent_v2(void *context) { return note("cuCtxPushCurrent", context, 0); }
int cuCtxPopCurrent_v2(void **context) { *context = 0; return note("cuCtxPopCurrent", 0, 0); }
int cuCtxSynchronize(void) { return note("cuCtxSynchronize", 0, 0); }
int cuMemHostRegister_v2(void *address, size_t size, unsigned flags) { return note("cuMemHostRegister", address, size | flags); }
int cuMemHostUnregister(void *address) { return note("cuMemHostUnregister", address, 0); }
int cuGetErrorName(int status, const char **text) { *text = "CUDA_ERROR_UNKNOWN"; return status != 999; }
