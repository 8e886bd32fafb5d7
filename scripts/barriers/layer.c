/* A Vulkan layer that counts what a driver is told: for each recorded command buffer its dispatches and its pipeline barriers, as a table at the end.
 * Needs no Vulkan headers: the few structures of the loader's interface are below. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void (*Function)(void);
typedef Function (*GetProcAddr)(void *, const char *);
typedef struct InstanceLink { struct InstanceLink *next; GetProcAddr get; GetProcAddr get_physical; } InstanceLink;
typedef struct DeviceLink { struct DeviceLink *next; GetProcAddr get_instance; GetProcAddr get_device; } DeviceLink;
typedef struct CreateInfo { int32_t type; const struct CreateInfo *next; int32_t function; void *link; } CreateInfo;
typedef struct { int32_t type; const CreateInfo *next; } Chained;
enum { LOADER_INSTANCE = 47, LOADER_DEVICE = 48, BUFFERS = 1 << 16 };

static GetProcAddr next_instance, next_device;
static int32_t (*begin)(void *, const void *);
static int32_t (*end)(void *);
static void (*dispatch)(void *, uint32_t, uint32_t, uint32_t);
static void (*barrier)(void *, uint32_t, uint32_t, uint32_t, uint32_t, const void *, uint32_t, const void *, uint32_t, const void *);

static struct { void *buffer; uint32_t dispatches, barriers; } open[64];
static struct { uint32_t dispatches, barriers, times; } seen[BUFFERS];

static int slot(void *buffer) {
    for (int i = 0; i < 64; i++)
        if (open[i].buffer == buffer) return i;
    for (int i = 0; i < 64; i++)
        if (!open[i].buffer) { open[i].buffer = buffer; open[i].dispatches = open[i].barriers = 0; return i; }
    return 0;
}

static int32_t count_begin(void *buffer, const void *info) {
    open[slot(buffer)].dispatches = 0;
    open[slot(buffer)].barriers = 0;
    return begin(buffer, info);
}

static int32_t count_end(void *buffer) {
    int s = slot(buffer);
    for (int i = 0; i < BUFFERS && open[s].dispatches; i++) {
        if (seen[i].times && (seen[i].dispatches != open[s].dispatches || seen[i].barriers != open[s].barriers)) continue;
        seen[i].dispatches = open[s].dispatches;
        seen[i].barriers = open[s].barriers;
        seen[i].times++;
        break;
    }
    open[s].buffer = NULL;
    return end(buffer);
}

static void count_dispatch(void *buffer, uint32_t x, uint32_t y, uint32_t z) {
    open[slot(buffer)].dispatches++;
    dispatch(buffer, x, y, z);
}

static void count_barrier(void *buffer, uint32_t a, uint32_t b, uint32_t c, uint32_t d, const void *e, uint32_t f, const void *g, uint32_t h, const void *i) {
    open[slot(buffer)].barriers++;
    barrier(buffer, a, b, c, d, e, f, g, h, i);
}

static CreateInfo *link_of(const void *info, int32_t type) {
    const CreateInfo *c = ((const Chained *)info)->next;
    while (c && !(c->type == type && c->function == 0)) c = c->next;
    return (CreateInfo *)c;
}

static int32_t create_instance(const void *info, const void *allocator, void **instance) {
    CreateInfo *chain = link_of(info, LOADER_INSTANCE);
    if (!chain) return -3;
    InstanceLink *link = chain->link;
    next_instance = link->get;
    chain->link = link->next;
    int32_t (*create)(const void *, const void *, void **) = (void *)next_instance(NULL, "vkCreateInstance");
    return create(info, allocator, instance);
}

static int32_t create_device(void *physical, const void *info, const void *allocator, void **device) {
    CreateInfo *chain = link_of(info, LOADER_DEVICE);
    if (!chain) return -3;
    DeviceLink *link = chain->link;
    next_device = link->get_device;
    chain->link = link->next;
    int32_t (*create)(void *, const void *, const void *, void **) = (void *)link->get_instance(NULL, "vkCreateDevice");
    int32_t result = create(physical, info, allocator, device);
    if (result) return result;
    begin = (void *)next_device(*device, "vkBeginCommandBuffer");
    end = (void *)next_device(*device, "vkEndCommandBuffer");
    dispatch = (void *)next_device(*device, "vkCmdDispatch");
    barrier = (void *)next_device(*device, "vkCmdPipelineBarrier");
    return 0;
}

Function barriers_device_proc(void *device, const char *name);
Function barriers_instance_proc(void *instance, const char *name);

static Function own(const char *name) {
    struct { const char *name; void *function; } table[] = {
        {"vkGetInstanceProcAddr", barriers_instance_proc}, {"vkGetDeviceProcAddr", barriers_device_proc},
        {"vkCreateInstance", create_instance}, {"vkCreateDevice", create_device},
        {"vkBeginCommandBuffer", count_begin}, {"vkEndCommandBuffer", count_end},
        {"vkCmdDispatch", count_dispatch}, {"vkCmdPipelineBarrier", count_barrier},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (!strcmp(table[i].name, name)) return (Function)table[i].function;
    return NULL;
}

Function barriers_device_proc(void *device, const char *name) {
    Function mine = own(name);
    return mine ? mine : next_device ? next_device(device, name) : NULL;
}

Function barriers_instance_proc(void *instance, const char *name) {
    Function mine = own(name);
    return mine ? mine : next_instance ? next_instance(instance, name) : NULL;
}

__attribute__((destructor)) static void report(void) {
    fprintf(stderr, "dispatches  barriers  command buffers\n");
    for (int i = 0; i < BUFFERS && seen[i].times; i++)
        fprintf(stderr, "%10u %9u %16u\n", seen[i].dispatches, seen[i].barriers, seen[i].times);
}
