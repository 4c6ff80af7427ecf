// The catalog's rates as the views read them; nvfp4viz/catalog.py says what they mean.

// [{name, heading, definition, count, whole, ...}], in the order of tables
export const ratesOf = (catalog) => catalog.numbers;

// One rate's entry; of a name that is none, the name
export const rateOf = (catalog, name) => ratesOf(catalog).find((rate) => rate.name === name) || { name, heading: name };

// What a rate is a share of, in words
export const wholeOf = ({ whole }) => whole.replace("nonzero_", "non-zero ");
