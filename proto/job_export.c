/* Keys of the section `export` against each other: which of them a form takes. */
#include "proto/job_keys.h"

static npo_err check_lora(const npo_job_export *export, npo_error *error)
{
    if (export->form == NPO_FORM_LORA && export->rank == 0 && export->energy == 0)
        return npo_error_set(error, NPO_E_USAGE,
                             "missing key 'export.rank': form 'lora' takes a rank or an energy");
    if (export->form != NPO_FORM_LORA && (export->rank > 0 || export->energy > 0))
        return npo_error_set(error, NPO_E_USAGE,
                             "export.%s has no meaning in form '%s', only in 'lora'",
                             export->rank > 0 ? "rank" : "energy", npo_job_forms[export->form]);
    return NPO_OK;
}

static npo_err check_naming(const npo_job_export *export, npo_error *error)
{
    static const struct {
        int naming, form;
        const char *name;
    } rows[] = {{NPO_NAMING_KOHYA, NPO_FORM_LORA, "kohya"},
                {NPO_NAMING_COMFYUI, NPO_FORM_DELTA, "comfyui"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (export->naming == rows[i].naming && export->form != rows[i].form)
            return npo_error_set(
                error, NPO_E_USAGE, "export.naming: '%s' has no meaning in form '%s', only in '%s'",
                rows[i].name, npo_job_forms[export->form], npo_job_forms[rows[i].form]);
    return NPO_OK;
}

npo_err npo_job_check_export(const npo_job *job, npo_error *error)
{
    const npo_job_export *export = &job->export;
    bool merges = export->form == NPO_FORM_MERGE, subtracts = export->form == NPO_FORM_ONE_NETWORK;
    bool has_positive = job->positive.path || job->positive.artifact;
    if (job->recipe != NPO_RECIPE_EXPORT)
        return NPO_OK;
    if (merges && !has_positive)
        return npo_error_set(error, NPO_E_USAGE,
                             "missing key 'positive': form 'merge' adds its offset");
    if (!merges && has_positive)
        return npo_error_set(error, NPO_E_USAGE,
                             "key 'positive' has no meaning in form '%s', only in 'merge'",
                             npo_job_forms[export->form]);
    if (subtracts && export->w == 0)
        return npo_error_set(error, NPO_E_USAGE,
                             "missing key 'export.w': form 'one-network' is theta_0 - w delta, "
                             "with w above 0");
    if (!subtracts && export->w > 0)
        return npo_error_set(error, NPO_E_USAGE,
                             "export.w has no meaning in form '%s', only in 'one-network'",
                             npo_job_forms[export->form]);
    NPO_TRY(check_lora(export, error));
    return check_naming(export, error);
}
