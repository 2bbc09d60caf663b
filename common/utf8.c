#include "common/utf8.h"

/* Rows of Unicode's table 3-7 (well-formed byte sequences). The first continuation byte has its own
 * range, which shuts out overlong forms, surrogates and values over U+10FFFF; later ones are
 * 80..BF. */
static const struct {
    uint8_t lead_min, lead_max, next_min, next_max, more, mask;
} forms[] = {
    {0xC2, 0xDF, 0x80, 0xBF, 1, 0x1F}, {0xE0, 0xE0, 0xA0, 0xBF, 2, 0x0F},
    {0xE1, 0xEC, 0x80, 0xBF, 2, 0x0F}, {0xED, 0xED, 0x80, 0x9F, 2, 0x0F},
    {0xEE, 0xEF, 0x80, 0xBF, 2, 0x0F}, {0xF0, 0xF0, 0x90, 0xBF, 3, 0x07},
    {0xF1, 0xF3, 0x80, 0xBF, 3, 0x07}, {0xF4, 0xF4, 0x80, 0x8F, 3, 0x07},
};

uint32_t npo_utf8_decode(const char **at, const char *end)
{
    uint8_t lead = (uint8_t) * (*at)++;
    if (lead < 0x80)
        return lead;
    for (size_t f = 0; f < sizeof forms / sizeof *forms; f++) {
        if (lead < forms[f].lead_min || lead > forms[f].lead_max)
            continue;
        uint32_t cp = lead & forms[f].mask;
        for (int i = 0; i < forms[f].more; i++) {
            uint8_t min = i ? 0x80 : forms[f].next_min, max = i ? 0xBF : forms[f].next_max;
            if (*at == end || (uint8_t) * *at < min || (uint8_t) * *at > max)
                return NPO_UTF8_INVALID;
            cp = cp << 6 | ((uint8_t) * (*at)++ & 0x3F);
        }
        return cp;
    }
    return NPO_UTF8_INVALID;
}

size_t npo_utf8_encode(uint32_t cp, char ret_bytes[4])
{
    static const struct {
        uint32_t end;
        uint8_t lead;
    } lengths[] = {{0x80, 0}, {0x800, 0xC0}, {0x10000, 0xE0}, {0x110000, 0xF0}};
    size_t n = 0;
    while (cp >= lengths[n].end)
        n++;
    ret_bytes[0] = (char)(lengths[n].lead | cp >> (6 * n));
    for (size_t i = 1; i <= n; i++)
        ret_bytes[i] = (char)(0x80 | (cp >> (6 * (n - i)) & 0x3F));
    return n + 1;
}
