/* A plugin of qemu-user (plugin API v1) that counts the instructions between the guest's calls of getppid.
 *
 * Prints "COUNT all=N dot=N" on standard error at each: since the last one, all instructions, and of them the
 * dot products of 8-bit integers (SDOT, UDOT, USDOT, SUDOT; Arm ARM, C7.2). The declarations are those of the
 * API, of which no header is needed.
 */
#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_info;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
extern void qemu_plugin_register_vcpu_tb_trans_cb(
    qemu_plugin_id_t, void (*)(qemu_plugin_id_t, struct qemu_plugin_tb *));
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
extern const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int, void *, uint64_t);
extern void qemu_plugin_register_vcpu_syscall_cb(
    qemu_plugin_id_t, void (*)(qemu_plugin_id_t, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                               uint64_t, uint64_t, uint64_t, uint64_t));

#define EXPORT __attribute__((visibility("default")))
EXPORT int qemu_plugin_version = 1;
enum { ADD_U64 = 0, GETPPID = 173 };
static uint64_t all, dot, last_all, last_dot;

static int is_dot(uint32_t word)
{
    const uint32_t vector = word & 0xBF20FC00, element = word & 0xBF00F400;
    return ((vector == 0x0E009400 || vector == 0x2E009400 || vector == 0x0E009C00) && (word >> 22 & 3) == 2)
        || element == 0x0F00E000 || element == 0x2F00E000 || element == 0x0F00F000;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block)
{
    const size_t count = qemu_plugin_tb_n_insns(block);
    uint64_t dots = 0;
    (void)id;
    for (size_t at = 0; at < count; at++) {
        uint32_t word;
        memcpy(&word, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, at)), sizeof word);
        dots += is_dot(word);
    }
    qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &all, count);
    if (dots) qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &dot, dots);
}

static void called(qemu_plugin_id_t id, unsigned vcpu, int64_t number, uint64_t a, uint64_t b, uint64_t c,
                   uint64_t d, uint64_t e, uint64_t f, uint64_t g, uint64_t h)
{
    (void)id, (void)vcpu, (void)a, (void)b, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
    if (number != GETPPID) return;
    fprintf(stderr, "COUNT all=%" PRIu64 " dot=%" PRIu64 "\n", all - last_all, dot - last_dot);
    last_all = all, last_dot = dot;
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info *info, int count, char **given)
{
    (void)info, (void)count, (void)given;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    return 0;
}
