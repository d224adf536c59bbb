// How many lanes that follow each other are in a subgroup: a builtin of the entry point called `subgroup_lanes` where
// there are subgroups, handed on as an argument because uniformity analysis does not look through private variables.
// That lane `i` of a workgroup is in subgroup `i / subgroup_lanes` is so on every device that is known; the check before
// a model is loaded finds out where it is not.
#if SUBGROUPS
#else
const subgroup_lanes: u32 = 1u;
#endif
