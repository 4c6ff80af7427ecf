// The traits of the widget: those that the page sets, or a cell; and those that Python sets.

export const FROM_PAGE = ["tensor", "recipe_a", "recipe_b", "view", "scale", "span", "sort", "rule", "under", "block"];
export const FROM_KERNEL = ["catalog", "summary", "statistics", "progress", "output", "live"];
