// The two recipes that are compared; wherever both are listed, A comes first.

export const SIDES = ["a", "b"];
