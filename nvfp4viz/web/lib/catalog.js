// The catalog's tables as the views read them; nvfp4viz/catalog.py says what they mean.

// [{name, label, short, definition, count, of}], in the order of tables; `of` says what a rate is a share of
export function ratesOf(catalog) {
  const { rates } = catalog;
  if (Array.isArray(rates)) return rates;
  return Object.entries(rates).map(([name, definition]) => {
    const label = name.replaceAll("_", " ");
    return { name, label, short: label, definition, of: "" };
  });
}

// One rate's entry; of a name that is none, the name
export function rateOf(catalog, name) {
  return ratesOf(catalog).find((rate) => rate.name === name) || { name, label: name, short: name, definition: "", of: "" };
}
