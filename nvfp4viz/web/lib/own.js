// Objects whose keys are names of strangers: a name may be "constructor", which every object seems to have.

export const own = (object, key) => (object && Object.hasOwn(object, key) ? object[key] : undefined);
