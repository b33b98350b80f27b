/* A driver library whose device memory is the host's, for tests of what drives a GPU on machines that have none.
 *
 * Copies and events are queued and happen when their stream is synchronised; until then what a copy writes to holds
 * poison, so that a missing synchronisation is seen. The environment sets what the device is:
 *   FAKECUDA_INIT       what cuInit returns (0)          FAKECUDA_VERSION  of the driver (13000)
 *   FAKECUDA_DEVICES    how many there are (1)           FAKECUDA_NAME     of a device
 *   FAKECUDA_CC         compute capability (87)          FAKECUDA_BYTES    memory of a device (1 GiB), and at most pinned
 *   FAKECUDA_REGISTER   what pinning in place gives (0)  FAKECUDA_SYNC     what a synchronisation gives (0)
 * fakecuda_live() counts what was made and not given back; fakecuda_waiting() is how the primary context waits. It says
 * CUDA_ERROR_NOT_SUPPORTED, by name, of what it lacks: a library that wants more symbols at its load gets them generated.
 * Names and numbers are those of CUDA's public interface; there is no line of its headers here.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef unsigned long long address;
enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101,
       INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_READY = 600, CONTEXT_ACTIVE = 708 };
enum { POISON = 0xA5, CAPTURING_ERROR = 900, MOST_OPS = 4096, MOST_ROOMS = 4096 };

typedef struct event { int recorded; int64_t time_ns; } event;
typedef struct { void *to; const void *from; size_t bytes; event *mark; void (*call)(void *); void *data; } op;
typedef struct { op ops[MOST_OPS]; int count; } list;
typedef struct { list queued; list *capture; } stream;
typedef struct { void *at; size_t bytes; int on_device; } room;

static int ready, live, depth, retained;
static unsigned waiting;
static size_t used;
static room rooms[MOST_ROOMS];
static int context_object;

static long number(const char *name, long usual) { const char *text = getenv(name); return text ? atol(text) : usual; }
static size_t whole(void) { return (size_t)number("FAKECUDA_BYTES", 1l << 30); }

int fakecuda_live(void) { return live; }
unsigned fakecuda_waiting(void) { return waiting; }

int cuInit(unsigned flags) { (void)flags; int code = (int)number("FAKECUDA_INIT", 0); ready = code == OK; return code; }
int cuDriverGetVersion(int *version) { *version = (int)number("FAKECUDA_VERSION", 13000); return OK; }
int cuDeviceGetCount(int *count) { *count = (int)number("FAKECUDA_DEVICES", 1); return ready ? OK : NOT_INITIALIZED; }
int cuDeviceGet(int *device, int ordinal) {
  if (!ready) return NOT_INITIALIZED;
  *device = ordinal;
  return ordinal >= 0 && ordinal < number("FAKECUDA_DEVICES", 1) ? OK : INVALID_DEVICE;
}
int cuDeviceGetName(char *name, int size, int device) {
  const char *text = getenv("FAKECUDA_NAME");
  (void)device;
  snprintf(name, (size_t)size, "%s", text ? text : "Fake GPU");
  return OK;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { (void)device; *bytes = whole(); return OK; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  long capability = number("FAKECUDA_CC", 87);
  (void)device;
  *value = attribute == 75 ? (int)(capability / 10) : attribute == 76 ? (int)(capability % 10) : 0;
  return OK;
}

int cuDeviceGetPCIBusId(char *text, int size, int device) {
  snprintf(text, (size_t)size, "0000:%02x:00.0", device + 1);
  return OK;
}

int cuDevicePrimaryCtxSetFlags_v2(int device, unsigned flags) {
  (void)device;
  if (!ready) return NOT_INITIALIZED;
  if (retained && flags != waiting) return CONTEXT_ACTIVE;
  waiting = flags;
  return OK;
}
int cuDevicePrimaryCtxRetain(void **context, int device) {
  (void)device;
  *context = &context_object;
  retained++;
  live++;
  return OK;
}
int cuDevicePrimaryCtxRelease_v2(int device) {
  (void)device;
  if (!retained) return INVALID_CONTEXT;
  retained--;
  live--;
  return OK;
}
int cuCtxPushCurrent_v2(void *context) {
  if (context != &context_object || !retained) return INVALID_CONTEXT;
  depth++;
  live++;
  return OK;
}
int cuCtxPopCurrent_v2(void **context) {
  if (!depth) return INVALID_CONTEXT;
  depth--;
  live--;
  if (context) *context = &context_object;
  return OK;
}
int cuCtxGetCurrent(void **context) { *context = depth ? &context_object : NULL; return OK; }
int cuCtxSetCurrent(void *context) { depth = context != NULL; return OK; }
int cuCtxGetDevice(int *device) { *device = 0; return depth ? OK : INVALID_CONTEXT; }
int cuCtxSynchronize(void) { return depth ? OK : INVALID_CONTEXT; }
int cuCtxGetApiVersion(void *context, unsigned *version) { (void)context; *version = 4; return OK; }

static int take(void **at, size_t bytes, int on_device) {
  if (!depth) return INVALID_CONTEXT;
  if (!bytes) return INVALID_VALUE;
  if (bytes + (on_device ? used : 0) > whole()) return OUT_OF_MEMORY;
  for (int place = 0; place < MOST_ROOMS; place++)
    if (!rooms[place].at) {
      if (posix_memalign(at, 256, bytes)) return OUT_OF_MEMORY;
      memset(*at, POISON, bytes);
      rooms[place] = (room){*at, bytes, on_device};
      used += on_device ? bytes : 0;
      live++;
      return OK;
    }
  return OUT_OF_MEMORY;
}
static int give(void *at, int on_device) {
  for (int place = 0; place < MOST_ROOMS; place++)
    if (rooms[place].at == at && rooms[place].on_device == on_device) {
      used -= on_device ? rooms[place].bytes : 0;
      free(at);
      rooms[place].at = NULL;
      live--;
      return OK;
    }
  return INVALID_VALUE;
}
int cuMemAlloc_v2(address *at, size_t bytes) { void *found; int code = take(&found, bytes, 1); if (!code) *at = (address)(uintptr_t)found; return code; }
int cuMemFree_v2(address at) { return give((void *)(uintptr_t)at, 1); }
int cuMemAllocHost_v2(void **at, size_t bytes) { return take(at, bytes, 0); }
int cuMemHostAlloc(void **at, size_t bytes, unsigned flags) { (void)flags; return take(at, bytes, 0); }
int cuMemFreeHost(void *at) { return give(at, 0); }
int cuMemHostRegister_v2(void *at, size_t bytes, unsigned flags) {
  int code = (int)number("FAKECUDA_REGISTER", OK);
  (void)flags;
  if (code) return code;
  if (!at || !bytes) return INVALID_VALUE;
  live++;
  return OK;
}
int cuMemHostUnregister(void *at) { if (!at) return INVALID_VALUE; live--; return OK; }
int cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
  if (!depth) return INVALID_CONTEXT;
  *total = whole();
  *free_bytes = whole() - used;
  return OK;
}

int cuStreamCreate(stream **made, unsigned flags) {
  (void)flags;
  if (!depth) return INVALID_CONTEXT;
  *made = calloc(1, sizeof(stream));
  live++;
  return OK;
}
int cuStreamDestroy_v2(stream *used_up) {
  if (!used_up) return INVALID_HANDLE;
  if (used_up->capture) live--;
  free(used_up->capture);
  free(used_up);
  live--;
  return OK;
}
static int queue(stream *in, op what) {
  list *into;
  if (!in) return INVALID_HANDLE;
  into = in->capture ? in->capture : &in->queued;
  if (into->count == MOST_OPS) return OUT_OF_MEMORY;
  into->ops[into->count++] = what;
  return OK;
}
static int copy(stream *in, void *to, const void *from, size_t bytes) {
  if (in && !in->capture) memset(to, POISON, bytes);
  return queue(in, (op){.to = to, .from = from, .bytes = bytes});
}
int cuMemcpyHtoDAsync_v2(address to, const void *from, size_t bytes, stream *in) { return copy(in, (void *)(uintptr_t)to, from, bytes); }
int cuMemcpyDtoHAsync_v2(void *to, address from, size_t bytes, stream *in) { return copy(in, to, (void *)(uintptr_t)from, bytes); }
int cuStreamSynchronize(stream *in) {
  struct timespec now;
  if (!in) return INVALID_HANDLE;
  if (in->capture) return CAPTURING_ERROR;
  if (number("FAKECUDA_SYNC", OK)) return (int)number("FAKECUDA_SYNC", OK);
  for (int place = 0; place < in->queued.count; place++) {
    op *next = &in->queued.ops[place];
    if (next->mark) {
      clock_gettime(CLOCK_MONOTONIC, &now);
      next->mark->recorded = 2;
      next->mark->time_ns = now.tv_sec * 1000000000ll + now.tv_nsec;
    } else if (next->call) {
      next->call(next->data);
    } else {
      memmove(next->to, next->from, next->bytes);
    }
  }
  in->queued.count = 0;
  return OK;
}

int cuLaunchHostFunc(stream *in, void (*call)(void *), void *data) { return queue(in, (op){.call = call, .data = data}); }

int cuEventCreate(event **made, unsigned flags) { (void)flags; *made = calloc(1, sizeof(event)); live++; return OK; }
int cuEventDestroy_v2(event *used_up) { free(used_up); live--; return OK; }
int cuEventRecord(event *mark, stream *in) { mark->recorded = 1; return queue(in, (op){.mark = mark}); }
int cuEventSynchronize(event *mark) { return mark->recorded == 2 ? OK : NOT_READY; }
int cuEventQuery(event *mark) { return mark->recorded == 2 ? OK : NOT_READY; }
int cuEventElapsedTime(float *milliseconds, event *start, event *end) {
  if (!start->recorded || !end->recorded) return INVALID_HANDLE;
  if (start->recorded != 2 || end->recorded != 2) return NOT_READY;
  *milliseconds = (float)((double)(end->time_ns - start->time_ns) / 1e6);
  return OK;
}
int cuEventElapsedTime_v2(float *milliseconds, event *start, event *end) { return cuEventElapsedTime(milliseconds, start, end); }

int cuStreamBeginCapture_v2(stream *in, int mode) {
  (void)mode;
  if (in->capture) return CAPTURING_ERROR;
  in->capture = calloc(1, sizeof(list));
  live++;
  return OK;
}
int cuStreamEndCapture(stream *in, list **graph) {
  if (!in->capture) return INVALID_VALUE;
  *graph = in->capture;
  in->capture = NULL;
  return OK;
}
int cuGraphInstantiateWithFlags(list **made, list *graph, unsigned long long flags) {
  (void)flags;
  *made = malloc(sizeof(list));
  **made = *graph;
  live++;
  return OK;
}
int cuGraphLaunch(list *made, stream *in) {
  for (int place = 0; place < made->count; place++) {
    op next = made->ops[place];
    int code = next.mark   ? cuEventRecord(next.mark, in)
               : next.call ? queue(in, next)
                           : copy(in, next.to, next.from, next.bytes);
    if (code) return code;
  }
  return OK;
}
int cuGraphDestroy(list *graph) { free(graph); live--; return OK; }
int cuGraphExecDestroy(list *made) { free(made); live--; return OK; }

int cuGetErrorName(int code, const char **name) {
  switch (code) {
    case OK: *name = "CUDA_SUCCESS"; break;
    case INVALID_VALUE: *name = "CUDA_ERROR_INVALID_VALUE"; break;
    case OUT_OF_MEMORY: *name = "CUDA_ERROR_OUT_OF_MEMORY"; break;
    case NOT_INITIALIZED: *name = "CUDA_ERROR_NOT_INITIALIZED"; break;
    case NO_DEVICE: *name = "CUDA_ERROR_NO_DEVICE"; break;
    case INVALID_DEVICE: *name = "CUDA_ERROR_INVALID_DEVICE"; break;
    case INVALID_CONTEXT: *name = "CUDA_ERROR_INVALID_CONTEXT"; break;
    case 34: *name = "CUDA_ERROR_STUB_LIBRARY"; break;
    case INVALID_HANDLE: *name = "CUDA_ERROR_INVALID_HANDLE"; break;
    case NOT_READY: *name = "CUDA_ERROR_NOT_READY"; break;
    case CONTEXT_ACTIVE: *name = "CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE"; break;
    case CAPTURING_ERROR: *name = "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"; break;
    case 700: *name = "CUDA_ERROR_ILLEGAL_ADDRESS"; break;
    case 801: *name = "CUDA_ERROR_NOT_SUPPORTED"; break;
    case 999: *name = "CUDA_ERROR_UNKNOWN"; break;
    default: *name = NULL; return INVALID_VALUE;
  }
  return OK;
}
int cuGetErrorString(int code, const char **text) { return cuGetErrorName(code, text); }

/* Who asks by name gets the newest form that is here. */
int cuGetProcAddress_v2(const char *name, void **found, int version, unsigned long long flags, int *status) {
  char newer[160];
  void *self = dlopen(NULL, RTLD_LAZY);
  static const char *endings[] = {"_v2", "", NULL};
  Dl_info here;
  (void)version; (void)flags;
  if (dladdr((void *)cuGetProcAddress_v2, &here)) self = dlopen(here.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
  *found = NULL;
  if (!strcmp(name, "cuGraphInstantiate")) name = "cuGraphInstantiateWithFlags";
  for (int place = 0; endings[place] && !*found; place++) {
    snprintf(newer, sizeof newer, "%s%s", name, endings[place]);
    *found = dlsym(self, newer);
  }
  if (status) *status = *found ? 0 : 1;
  return OK;
}
int cuGetProcAddress(const char *name, void **found, int version, unsigned long long flags) {
  return cuGetProcAddress_v2(name, found, version, flags, NULL);
}
