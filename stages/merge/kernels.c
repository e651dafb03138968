/* The arithmetic of merges in one pass over memory: the same bytes as the operations of torch and numpy that
 * `native.py` names beside each function, several times as fast. Nothing here reads or writes past `count`
 * elements, allocates, or keeps state.
 *
 * Built without contraction of a * b + c: it is fused where fmaf is written, and nowhere else.
 */

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

/* One body for every x86 processor and a second one for those with AVX2 and FMA, chosen when it is loaded. */
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#define KERNEL EXPORT __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define KERNEL EXPORT
#endif

#define INLINE static inline __attribute__((always_inline))

enum { F32 = 0, BF16 = 1 };
enum { KEEP_ALL = 0, KEEP_CUT = 1, KEEP_BITS = 2, KEEP_NONE = 3 };
enum { TILE = 512, LANES = 16, QUAD = 4 * LANES, WORD = 32, MOST_INPUTS = 64, FEW = 4, ABI = 3 };

typedef struct {
    const void *data;
    int64_t dtype;
} source;

typedef struct {
    int64_t kind;
    int64_t until;       /* KEEP_CUT: elements before it count at the threshold, those behind only above it */
    const uint8_t *bits; /* KEEP_BITS: from the lowest of the first byte on; seven bytes more can be read */
    int64_t first;       /* KEEP_BITS: which of them is the first element's */
    double threshold;
} mask;

/* The i-th of elements that lie anywhere. */
INLINE float single(const char *data, int64_t i)
{
    float value;
    memcpy(&value, data + 4 * i, 4);
    return value;
}

INLINE float half(const char *data, int64_t i)
{
    uint16_t upper;
    float value;
    memcpy(&upper, data + 2 * i, 2);
    uint32_t bits = (uint32_t)upper << 16;
    memcpy(&value, &bits, 4);
    return value;
}

INLINE void load(float *restrict out, source from, int64_t start, int64_t count)
{
    if (from.dtype == BF16) {
        const char *data = (const char *)from.data + 2 * start;
        for (int64_t i = 0; i < count; i++)
            out[i] = half(data, i);
    } else {
        memcpy(out, (const char *)from.data + 4 * start, 4 * (size_t)count);
    }
}

/* x - base. */
INLINE void differ(float *restrict out, source from, const float *restrict base, int64_t start, int64_t count)
{
    if (from.dtype == BF16) {
        const char *data = (const char *)from.data + 2 * start;
        for (int64_t i = 0; i < count; i++)
            out[i] = half(data, i) - base[i];
    } else {
        const char *data = (const char *)from.data + 4 * start;
        for (int64_t i = 0; i < count; i++)
            out[i] = single(data, i) - base[i];
    }
}

/* To nearest, ties to even; what is not a number becomes the quiet one. */
INLINE void store(void *out, int64_t dtype, int64_t start, const float *restrict values, int64_t count)
{
    if (dtype == BF16) {
        uint16_t *halves = (uint16_t *)out + start;
        for (int64_t i = 0; i < count; i++) {
            uint32_t bits;
            memcpy(&bits, values + i, 4);
            uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
            halves[i] = (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
        }
    } else {
        uint32_t *words = (uint32_t *)out + start;
        for (int64_t i = 0; i < count; i++) {
            uint32_t bits;
            memcpy(&bits, values + i, 4);
            words[i] = (bits & 0x7fffffff) > 0x7f800000 ? 0x7fc00000 : bits;
        }
    }
}

INLINE uint32_t bits_from(const mask *keep, int64_t element)
{
    const int64_t place = keep->first + element;
    uint64_t bits;
    memcpy(&bits, keep->bits + place / 8, 8);
    return (uint32_t)(bits >> place % 8);
}

/* delta: has a whole tile, whatever lies behind count. */
INLINE void apply(float *restrict delta, const mask *keep, int64_t start, int64_t count)
{
    if (keep->kind == KEEP_CUT) {
        const float threshold = (float)keep->threshold;
        int64_t until = keep->until - start;
        until = until < 0 ? 0 : until > count ? count : until;
        for (int64_t i = 0; i < until; i++)
            delta[i] *= fabsf(delta[i]) >= threshold ? 1.0f : 0.0f;
        for (int64_t i = until; i < count; i++)
            delta[i] *= fabsf(delta[i]) > threshold ? 1.0f : 0.0f;
    } else if (keep->kind == KEEP_BITS) {
        for (int64_t i = 0; i < count; i += WORD) {
            const uint32_t word = bits_from(keep, start + i);
            for (int k = 0; k < WORD; k++)
                delta[i + k] *= (float)(int32_t)((word >> k) & 1);
        }
    } else if (keep->kind == KEEP_NONE) {
        memset(delta, 0, 4 * (size_t)count);
    }
}

INLINE int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Which bit of a word that is not 0 is its lowest. */
INLINE int64_t lowest(uint64_t word)
{
#if defined(__GNUC__)
    return __builtin_ctzll(word);
#else
    int64_t place = 0;
    for (; !(word & 1); word >>= 1)
        place++;
    return place;
#endif
}

/* Which arguments the functions take, as `native.py` knows them. */
EXPORT int64_t ingot_abi(void)
{
    return ABI;
}

/* sum of weights[j] * x_j, each added in one rounding, then divided. */
KERNEL void ingot_linear(const source *from, const float *weights, int64_t inputs, float divisor, void *out,
                         int64_t dtype, int64_t count)
{
    float total[TILE], values[TILE];
    for (int64_t start = 0; start < count; start += TILE) {
        int64_t size = least(TILE, count - start);
        memset(total, 0, sizeof total);
        for (int64_t j = 0; j < inputs; j++) {
            const float weight = weights[j];
            load(values, from[j], start, size);
            for (int64_t i = 0; i < size; i++)
                total[i] = fmaf(values[i], weight, total[i]);
        }
        if (divisor != 1.0f)
            for (int64_t i = 0; i < size; i++)
                total[i] /= divisor;
        store(out, dtype, start, total, size);
    }
}

/* a_factor * a, rounded, then b_factor * b added in one rounding. */
KERNEL void ingot_blend(const source *from, float a_factor, float b_factor, void *out, int64_t dtype,
                        int64_t count)
{
    float a[TILE], b[TILE];
    for (int64_t start = 0; start < count; start += TILE) {
        int64_t size = least(TILE, count - start);
        load(a, from[0], start, size);
        load(b, from[1], start, size);
        for (int64_t i = 0; i < size; i++)
            a[i] = fmaf(b[i], b_factor, a[i] * a_factor);
        store(out, dtype, start, a, size);
    }
}

INLINE double folded(const double *lanes)
{
    double total = lanes[0];
    for (int l = 1; l < LANES; l++)
        total += lanes[l];
    return total;
}

/* a.a, b.b and a.b, in LANES sums each: element i is added to lane i % LANES; products are exact. */
KERNEL void ingot_products(const source *from, double *out, int64_t count)
{
    double aa[LANES] = {0}, bb[LANES] = {0}, ab[LANES] = {0};
    float a[TILE], b[TILE];
    for (int64_t start = 0; start < count; start += TILE) {
        int64_t size = least(TILE, count - start);
        load(a, from[0], start, size);
        load(b, from[1], start, size);
        for (int64_t i = size; i % LANES; i++)
            a[i] = b[i] = 0.0f;
        for (int64_t i = 0; i < size; i += LANES)
            for (int l = 0; l < LANES; l++) {
                double x = a[i + l], y = b[i + l];
                aa[l] += x * x;
                bb[l] += y * y;
                ab[l] += x * y;
            }
    }
    out[0] = folded(aa);
    out[1] = folded(bb);
    out[2] = folded(ab);
}

/* Adds |values|, four in a row of lanes at a time in single precision, to LANES sums. count: of QUAD a multiple. */
INLINE void magnitudes(double *restrict sums, const float *restrict values, int64_t count)
{
    for (int64_t i = 0; i < count; i += QUAD)
        for (int l = 0; l < LANES; l++) {
            const float *at = values + i + l;
            sums[l] += (fabsf(at[0]) + fabsf(at[LANES])) + (fabsf(at[2 * LANES]) + fabsf(at[3 * LANES]));
        }
}

/* For each input, the sum of |x - base| and of what its mask leaves of it, in LANES sums. */
KERNEL void ingot_norms(const source *from, const mask *keep, int64_t inputs, double *out, int64_t count)
{
    float base[TILE], delta[TILE];
    double before[MOST_INPUTS][LANES] = {{0}}, after[MOST_INPUTS][LANES] = {{0}};
    for (int64_t start = 0; start < count; start += TILE) {
        int64_t size = least(TILE, count - start), whole = (size + QUAD - 1) / QUAD * QUAD;
        load(base, from[0], start, size);
        for (int64_t j = 0; j < inputs; j++) {
            differ(delta, from[j + 1], base, start, size);
            for (int64_t i = size; i < whole; i++)
                delta[i] = 0.0f;
            magnitudes(before[j], delta, whole);
            apply(delta, keep + j, start, size);
            magnitudes(after[j], delta, whole);
        }
    }
    for (int64_t j = 0; j < inputs; j++) {
        out[2 * j] = folded(before[j]);
        out[2 * j + 1] = folded(after[j]);
    }
}

/* Of the bits of |x - base|: how many are above `high`, at it and at `low`; those between go to `inside`, which
 * has room for all. found: [above, high, low, inside]. */
KERNEL void ingot_search(const source *from, int32_t low, int32_t high, int32_t *inside, int64_t *found,
                         int64_t count)
{
    float base[TILE], delta[TILE];
    int32_t keys[TILE];
    uint8_t flags[TILE];
    int64_t filled = 0;
    found[0] = found[1] = found[2] = 0;
    for (int64_t start = 0; start < count; start += TILE) {
        int64_t size = least(TILE, count - start);
        int32_t above = 0, at_high = 0, at_low = 0, between = 0;
        load(base, from[0], start, size);
        differ(delta, from[1], base, start, size);
        memcpy(keys, delta, sizeof keys);
        for (int64_t i = 0; i < size; i++) {
            keys[i] &= 0x7fffffff;
            above += keys[i] > high;
            at_high += keys[i] == high;
            at_low += keys[i] == low;
            between += (keys[i] > low) & (keys[i] < high);
        }
        found[0] += above;
        found[1] += at_high;
        found[2] += at_low;
        if (!between)
            continue;
        for (int64_t i = 0; i < size; i++)
            flags[i] = (keys[i] > low) & (keys[i] < high);
        memset(flags + size, 0, (size_t)(TILE - size));
        for (int64_t i = 0; i < size; i += 8) {
            uint64_t some;
            memcpy(&some, flags + i, 8);
            for (; some; some &= some - 1)
                inside[filled++] = keys[i + lowest(some) / 8];
        }
    }
    if (low == high)
        found[2] = 0;
    found[3] = filled;
}

/* The bits of |x - base|. */
KERNEL void ingot_keys(const source *from, int32_t *out, int64_t count)
{
    float base[TILE], delta[TILE];
    for (int64_t start = 0; start < count; start += TILE) {
        int64_t size = least(TILE, count - start);
        load(base, from[0], start, size);
        load(delta, from[1], start, size);
        for (int64_t i = 0; i < size; i++) {
            float distance = fabsf(delta[i] - base[i]);
            memcpy(out + start + i, &distance, 4);
        }
    }
}

/* base + scale * sum of factors[j] * mask_j * (x_j - base). */
KERNEL void ingot_added(const source *from, const mask *keep, const float *factors, int64_t inputs, float scale,
                        void *out, int64_t dtype, int64_t count)
{
    float base[TILE], mixed[TILE], delta[TILE];
    for (int64_t start = 0; start < count; start += TILE) {
        int64_t size = least(TILE, count - start);
        load(base, from[0], start, size);
        memset(mixed, 0, sizeof mixed);
        for (int64_t j = 0; j < inputs; j++) {
            const float factor = factors[j];
            differ(delta, from[j + 1], base, start, size);
            apply(delta, keep + j, start, size);
            for (int64_t i = 0; i < size; i++)
                mixed[i] = fmaf(delta[i], factor, mixed[i]);
        }
        for (int64_t i = 0; i < size; i++)
            mixed[i] = mixed[i] * scale + base[i];
        store(out, dtype, start, mixed, size);
    }
}

INLINE float as_float(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

INLINE uint32_t as_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

/* A tile of `ingot_voted` of bfloat16 with masks of bits, not divided: inputs as few as this stay in registers. */
INLINE void vote_of(int inputs, const source *from, const mask *keep, const float *restrict factors, float scale,
                    float *restrict out, int64_t start)
{
    const char *data[FEW + 1];
    for (int j = 0; j <= inputs; j++)
        data[j] = (const char *)from[j].data + 2 * start;
    for (int64_t i = 0; i < TILE; i += WORD) {
        uint32_t word[FEW];
        for (int j = 0; j < inputs; j++)
            word[j] = bits_from(keep + j, start + i);
        for (int k = 0; k < WORD; k++) {
            const float base = half(data[0], i + k);
            float delta[FEW], total = 0.0f, mixed = 0.0f;
            for (int j = 0; j < inputs; j++) {
                const float kept = (float)(int32_t)((word[j] >> k) & 1);
                delta[j] = (half(data[j + 1], i + k) - base) * kept * factors[j];
                total += delta[j];
            }
            const uint32_t turned = total >= 0.0f ? 0 : 0x80000000u;
            for (int j = 0; j < inputs; j++) {
                const float agrees = as_float(as_bits(delta[j]) ^ turned) > 0.0f ? 1.0f : 0.0f;
                mixed = fmaf(delta[j], agrees, mixed);
            }
            out[i + k] = mixed * scale + base;
        }
    }
}

INLINE int are_few(const source *from, const mask *keep, int64_t inputs)
{
    int few = inputs >= 2 && inputs <= FEW && from[0].dtype == BF16;
    for (int64_t j = 0; few && j < inputs; j++)
        few = from[j + 1].dtype == BF16 && keep[j].kind == KEEP_BITS;
    return few;
}

/* The same of those differences only that have the sign of their sum, divided by their weights if asked. */
KERNEL void ingot_voted(const source *from, const mask *keep, const float *factors, const float *weights,
                        int64_t inputs, int64_t normalize, float scale, void *out, int64_t dtype, int64_t count)
{
    float base[TILE], total[TILE], mixed[TILE], divisor[TILE], deltas[MOST_INPUTS][TILE];
    uint32_t turned[TILE]; /* the bit of the sign where the sum is not 0 or above */
    const int few = !normalize && are_few(from, keep, inputs);
    for (int64_t start = 0; start < count; start += TILE) {
        int64_t size = least(TILE, count - start);
        if (few && size == TILE) {
            if (inputs == 2)
                vote_of(2, from, keep, factors, scale, mixed, start);
            else if (inputs == 3)
                vote_of(3, from, keep, factors, scale, mixed, start);
            else
                vote_of(FEW, from, keep, factors, scale, mixed, start);
            store(out, dtype, start, mixed, size);
            continue;
        }
        load(base, from[0], start, size);
        memset(total, 0, sizeof total);
        for (int64_t j = 0; j < inputs; j++) {
            float *restrict delta = deltas[j];
            const float factor = factors[j];
            differ(delta, from[j + 1], base, start, size);
            apply(delta, keep + j, start, size);
            for (int64_t i = 0; i < size; i++) {
                delta[i] *= factor;
                total[i] += delta[i];
            }
        }
        for (int64_t i = 0; i < size; i++)
            turned[i] = total[i] >= 0.0f ? 0 : 0x80000000u;
        memset(mixed, 0, sizeof mixed);
        if (normalize)
            memset(divisor, 0, sizeof divisor);
        /* A product with 0 or 1 is exact, so that one rounding of the sum is as good as two. */
        for (int64_t j = 0; j < inputs; j++) {
            const float *restrict delta = deltas[j];
            const float weight = weights[j];
            if (normalize)
                for (int64_t i = 0; i < size; i++) {
                    float agrees = as_float(as_bits(delta[i]) ^ turned[i]) > 0.0f ? 1.0f : 0.0f;
                    mixed[i] = fmaf(delta[i], agrees, mixed[i]);
                    divisor[i] = fmaf(agrees, weight, divisor[i]);
                }
            else
                for (int64_t i = 0; i < size; i++) {
                    float agrees = as_float(as_bits(delta[i]) ^ turned[i]) > 0.0f ? 1.0f : 0.0f;
                    mixed[i] = fmaf(delta[i], agrees, mixed[i]);
                }
        }
        if (normalize)
            for (int64_t i = 0; i < size; i++)
                mixed[i] /= divisor[i] + (divisor[i] == 0.0f ? 1.0f : 0.0f);
        for (int64_t i = 0; i < size; i++)
            mixed[i] = mixed[i] * scale + base[i];
        store(out, dtype, start, mixed, size);
    }
}

#if defined(__SIZEOF_INT128__)

enum { SETTLED = 1 << 16 };

/* Philox 4x64-10. */
INLINE void philox(uint64_t counter, uint64_t key0, uint64_t key1, uint64_t *out)
{
    uint64_t c0 = counter, c1 = 0, c2 = 0, c3 = 0;
    for (int round = 0; round < 10; round++) {
        unsigned __int128 p0 = (unsigned __int128)0xD2E7470EE14C6C93u * c0;
        unsigned __int128 p1 = (unsigned __int128)0xCA5A826395121157u * c2;
        uint64_t n0 = (uint64_t)(p1 >> 64) ^ c1 ^ key0, n2 = (uint64_t)(p0 >> 64) ^ c3 ^ key1;
        c1 = (uint64_t)p1;
        c3 = (uint64_t)p0;
        c0 = n0;
        c2 = n2;
        key0 += 0x9E3779B97F4A7C15u;
        key1 += 0xBB67AE8584CAA73Bu;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* Eight bytes of 0 or 1 as eight bits, the first one lowest. */
INLINE uint8_t packed(const uint8_t *flags)
{
    uint64_t bytes;
    memcpy(&bytes, flags, 8);
    return (uint8_t)((bytes * 0x0102040810204080u) >> 56);
}

enum { DRAWN = 2048, GROUP = 32 };

/* `Stream.keeps`, a bit for each element: begin is a multiple of SETTLED, and so many elements from there on are
 * filled in, up to a whole number of DRAWN. width: bits that an element draws. The words that settle draws of 8
 * bits are those of the key with its lowest bit turned.
 */
KERNEL void ingot_keeps(uint64_t key0, uint64_t key1, int64_t begin, int64_t count, int64_t width,
                        uint64_t whole, uint64_t rest, uint8_t *out)
{
    uint64_t words[DRAWN / 8] = {0}, settling[4], settled = 0;
    uint8_t drawn[DRAWN], flags[DRAWN], table[256];
    const int64_t each = 8 / width, bytes = DRAWN / each;
    const uint8_t bound = (uint8_t)whole;
    for (int byte = 0; byte < 256; byte++) {
        table[byte] = 0;
        for (int64_t k = 0; k < each; k++)
            table[byte] |= (uint8_t)(((uint64_t)((byte >> (width * k)) & ((1 << width) - 1)) < whole) << k);
    }
    for (int64_t start = 0; start < count; start += DRAWN, out += DRAWN / 8) {
        int64_t size = least(DRAWN, count - start);
        if (start % SETTLED == 0)
            settled = (uint64_t)(begin + start);
        for (int64_t i = 0; i < bytes / GROUP; i++)
            philox((uint64_t)((begin + start) / each / GROUP + i), key0, key1, words + 4 * i);
        memcpy(drawn, words, (size_t)bytes);
        if (width == 8) {
            for (int64_t i = 0; i < DRAWN; i++)
                flags[i] = drawn[i] < bound;
            for (int64_t i = 0; i < DRAWN / 8; i++)
                out[i] = packed(flags + 8 * i);
        } else if (width == 4)
            for (int64_t i = 0; i < DRAWN / 8; i++)
                out[i] = (uint8_t)(table[drawn[4 * i]] | table[drawn[4 * i + 1]] << 2 |
                                   table[drawn[4 * i + 2]] << 4 | table[drawn[4 * i + 3]] << 6);
        else if (width == 2)
            for (int64_t i = 0; i < DRAWN / 8; i++)
                out[i] = (uint8_t)(table[drawn[2 * i]] | table[drawn[2 * i + 1]] << 4);
        else
            for (int64_t i = 0; i < DRAWN / 8; i++)
                out[i] = (uint8_t)(bound ? ~drawn[i] : 0);
        if (!rest)
            continue;
        for (int64_t i = 0; i < DRAWN; i++)
            flags[i] = drawn[i] == bound;
        for (int64_t i = 0; i < size; i += 8) {
            uint64_t some;
            memcpy(&some, flags + i, 8);
            for (; some; some &= some - 1) {
                int64_t k = lowest(some) / 8;
                if (i + k >= size)
                    break;
                philox(settled / 4, key0 ^ 1, key1, settling);
                out[i / 8] |= (uint8_t)((settling[settled % 4] < rest) << k);
                settled++;
            }
        }
    }
}

#endif
