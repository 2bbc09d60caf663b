#include "worker/model/files/single_name.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NUMBERS = 2, NUMBER_MAX = 1000, BLOCKS_MAX = 32 };

/* The numbers of a diffusers name to those of the single file's. */
typedef void (*numbering)(const npo_single_names *names, const int *from, int *ret_to);

/* What follows a rule's pattern: by prefix, where it stands in the table, else as it is. */
typedef struct {
    const char *from, *to;
    int third;
} tail;

/* '#' stands for a number. A pattern without '.' at its end is a whole name. */
typedef struct {
    const char *pattern, *replacement;
    const tail *tails; /* ends with a row of NULL; NULL: none */
    numbering number;  /* NULL: the same numbers */
    bool transposed;
} rule;

/* ---- UNet ---- */

static void number_down(const npo_single_names *names, const int *from, int *ret_to)
{
    ret_to[0] = 1 + from[0] * (names->layers + 1) + from[1]; /* 0 is conv_in */
}

static void number_downsampler(const npo_single_names *names, const int *from, int *ret_to)
{
    ret_to[0] = (from[0] + 1) * (names->layers + 1);
}

static void number_up(const npo_single_names *names, const int *from, int *ret_to)
{
    ret_to[0] = from[0] * (names->layers + 1) + from[1];
}

/* Behind the block's last resnet, and attention where it has one. */
static void number_upsampler(const npo_single_names *names, const int *from, int *ret_to)
{
    ret_to[0] = from[0] * (names->layers + 1) + names->layers;
    ret_to[1] = names->up_attention >> from[0] & 1 ? 2 : 1;
}

static const tail unet_resnet[] = {
    {"norm1.", "in_layers.0."},
    {"conv1.", "in_layers.2."},
    {"time_emb_proj.", "emb_layers.1."},
    {"norm2.", "out_layers.0."},
    {"conv2.", "out_layers.3."},
    {"conv_shortcut.", "skip_connection."},
    {NULL},
};

static const rule unet_rules[] = {
    {"conv_in.", "input_blocks.0.0."},
    {"time_embedding.linear_1.", "time_embed.0."},
    {"time_embedding.linear_2.", "time_embed.2."},
    {"add_embedding.linear_1.", "label_emb.0.0."},
    {"add_embedding.linear_2.", "label_emb.0.2."},
    {"down_blocks.#.resnets.#.", "input_blocks.#.0.", unet_resnet, number_down},
    {"down_blocks.#.attentions.#.", "input_blocks.#.1.", NULL, number_down},
    {"down_blocks.#.downsamplers.0.conv.", "input_blocks.#.0.op.", NULL, number_downsampler},
    {"mid_block.resnets.0.", "middle_block.0.", unet_resnet},
    {"mid_block.attentions.0.", "middle_block.1."},
    {"mid_block.resnets.1.", "middle_block.2.", unet_resnet},
    {"up_blocks.#.resnets.#.", "output_blocks.#.0.", unet_resnet, number_up},
    {"up_blocks.#.attentions.#.", "output_blocks.#.1.", NULL, number_up},
    {"up_blocks.#.upsamplers.0.conv.", "output_blocks.#.#.conv.", NULL, number_upsampler},
    {"conv_norm_out.", "out.0."},
    {"conv_out.", "out.2."},
    {NULL},
};

/* ---- VAE ---- */

/* The decoder's levels count from the full resolution. */
static void number_vae_up(const npo_single_names *names, const int *from, int *ret_to)
{
    ret_to[0] = names->levels - 1 - from[0];
    ret_to[1] = from[1];
}

static const tail vae_resnet[] = {
    {"conv_shortcut.", "nin_shortcut."},
    {NULL},
};
static const tail vae_attention[] = {
    {"group_norm.", "norm."},   {"to_q.", "q."}, {"to_k.", "k."}, {"to_v.", "v."},
    {"to_out.0.", "proj_out."}, {NULL},
};

static const rule vae_rules[] = {
    {"encoder.conv_in.", "encoder.conv_in."},
    {"encoder.down_blocks.#.resnets.#.", "encoder.down.#.block.#.", vae_resnet},
    {"encoder.down_blocks.#.downsamplers.0.conv.", "encoder.down.#.downsample.conv."},
    {"encoder.mid_block.resnets.0.", "encoder.mid.block_1.", vae_resnet},
    {"encoder.mid_block.attentions.0.", "encoder.mid.attn_1.", vae_attention},
    {"encoder.mid_block.resnets.1.", "encoder.mid.block_2.", vae_resnet},
    {"encoder.conv_norm_out.", "encoder.norm_out."},
    {"encoder.conv_out.", "encoder.conv_out."},
    {"decoder.conv_in.", "decoder.conv_in."},
    {"decoder.up_blocks.#.resnets.#.", "decoder.up.#.block.#.", vae_resnet, number_vae_up},
    {"decoder.up_blocks.#.upsamplers.0.conv.", "decoder.up.#.upsample.conv.", NULL, number_vae_up},
    {"decoder.mid_block.resnets.0.", "decoder.mid.block_1.", vae_resnet},
    {"decoder.mid_block.attentions.0.", "decoder.mid.attn_1.", vae_attention},
    {"decoder.mid_block.resnets.1.", "decoder.mid.block_2.", vae_resnet},
    {"decoder.conv_norm_out.", "decoder.norm_out."},
    {"decoder.conv_out.", "decoder.conv_out."},
    {"quant_conv.", "quant_conv."},
    {"post_quant_conv.", "post_quant_conv."},
    {NULL},
};

/* ---- text encoders ---- */

static const rule text_rules[] = {
    {"text_model.", "text_model."},
    {NULL},
};

static const tail open_clip_layer[] = {
    {"self_attn.q_proj.weight", "attn.in_proj_weight", 1},
    {"self_attn.k_proj.weight", "attn.in_proj_weight", 2},
    {"self_attn.v_proj.weight", "attn.in_proj_weight", 3},
    {"self_attn.q_proj.bias", "attn.in_proj_bias", 1},
    {"self_attn.k_proj.bias", "attn.in_proj_bias", 2},
    {"self_attn.v_proj.bias", "attn.in_proj_bias", 3},
    {"self_attn.out_proj.", "attn.out_proj."},
    {"layer_norm1.", "ln_1."},
    {"layer_norm2.", "ln_2."},
    {"mlp.fc1.", "mlp.c_fc."},
    {"mlp.fc2.", "mlp.c_proj."},
    {NULL},
};

static const rule open_clip_rules[] = {
    {"text_model.embeddings.token_embedding.", "token_embedding."},
    {"text_model.embeddings.position_embedding.weight", "positional_embedding"},
    {"text_model.encoder.layers.#.", "transformer.resblocks.#.", open_clip_layer},
    {"text_model.final_layer_norm.", "ln_final."},
    {"text_projection.weight", "text_projection", .transposed = true},
    {NULL},
};

static const struct {
    const char *prefix;
    const rule *rules;
} parts[NPO_SINGLE_PARTS] = {
    [NPO_SINGLE_UNET] = {"model.diffusion_model.", unet_rules},
    [NPO_SINGLE_VAE] = {"first_stage_model.", vae_rules},
    [NPO_SINGLE_TEXT] = {"cond_stage_model.transformer.", text_rules},
    [NPO_SINGLE_TEXT_XL] = {"conditioner.embedders.0.transformer.", text_rules},
    [NPO_SINGLE_TEXT_2] = {"conditioner.embedders.1.model.", open_clip_rules},
};

/* ---- applying ---- */

const char *npo_single_prefix(npo_single_part part)
{
    return parts[part].prefix;
}

/* Bytes of name that the pattern covers, or 0. */
static size_t match(const char *pattern, const char *name, int *ret_numbers)
{
    const char *at = name;
    for (int count = 0; *pattern; pattern++) {
        if (*pattern != '#') {
            if (*at++ != *pattern)
                return 0;
            continue;
        }
        char *end;
        if (!isdigit((unsigned char)*at) || count == NUMBERS)
            return 0;
        unsigned long number = strtoul(at, &end, 10);
        if (number >= NUMBER_MAX)
            return 0;
        ret_numbers[count++] = (int)number;
        at = end;
    }
    return *at && at[-1] != '.' ? 0 : (size_t)(at - name);
}

static void add_numbered(char *name, size_t size, const char *replacement, const int *numbers)
{
    size_t len = strlen(name);
    for (; *replacement && len + 1 < size; replacement++) {
        int n = *replacement == '#' ? snprintf(name + len, size - len, "%d", *numbers++)
                                    : snprintf(name + len, size - len, "%c", *replacement);
        len += (size_t)n;
    }
}

static void add_tail(npo_single_place *place, const tail *tails, const char *rest)
{
    size_t skipped = 0;
    const char *replacement = "";
    for (; tails && tails->from; tails++)
        if (strncmp(rest, tails->from, strlen(tails->from)) == 0) {
            skipped = strlen(tails->from);
            replacement = tails->to;
            place->third = tails->third;
            break;
        }
    size_t len = strlen(place->name);
    snprintf(place->name + len, sizeof place->name - len, "%s%s", replacement, rest + skipped);
}

bool npo_single_place_of(const npo_single_names *names, const char *name,
                         npo_single_place *ret_place)
{
    for (const rule *r = parts[names->part].rules; r->pattern; r++) {
        int from[NUMBERS] = {0}, to[NUMBERS];
        size_t len = match(r->pattern, name, from);
        if (!len)
            continue;
        memcpy(to, from, sizeof to);
        if (r->number)
            r->number(names, from, to);
        *ret_place = (npo_single_place){.transposed = r->transposed};
        snprintf(ret_place->name, sizeof ret_place->name, "%s", parts[names->part].prefix);
        add_numbered(ret_place->name, sizeof ret_place->name, r->replacement, to);
        add_tail(ret_place, r->tails, name + len);
        return true;
    }
    return false;
}

npo_single_names npo_single_names_of(npo_single_part part, const npo_layout *layout)
{
    npo_single_names names = {.part = part};
    for (size_t i = 0; i < npo_layout_count(layout); i++) {
        const char *name = npo_layout_at(layout, i)->name;
        int at[NUMBERS] = {0};
        if ((match("up_blocks.#.", name, at) || match("decoder.up_blocks.#.", name, at)) &&
            at[0] < BLOCKS_MAX && at[0] >= names.levels)
            names.levels = at[0] + 1;
        if (match("down_blocks.0.resnets.#.", name, at) && at[0] >= names.layers)
            names.layers = at[0] + 1;
        if (match("up_blocks.#.attentions.#.", name, at) && at[0] < BLOCKS_MAX)
            names.up_attention |= (uint32_t)1 << at[0];
    }
    return names;
}
