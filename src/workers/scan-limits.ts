/** The bounds of queries and kills. Numbers alone. */

/** Rows that a query or a kill looks at in one turn of a Worker's loop: 0.1 to 0.4 ms. */
export const scannedRowsPerTurn = 500;

/** To end a connection costs as much as to look at so many, and to return one as so many. */
export const killCost = 32;
export const returnCost = 4;

/** So many connections are ended without a question. */
export const killUnaskedMax = 100;

/** The most rows that a query returns, and ids that a kill takes. */
export const queryRowsMax = 1_000;

/** How long a Worker may take to answer a query or a kill, in ms: it may be behind. */
export const scanAnswerMs = 30_000;

/** After a query Workers rest for so many times as long as it took them: traffic goes first. */
export const scanRestFactor = 3;

/** Queries and kills that wait while another one is carried out; more are rejected. */
export const scansWaitingMax = 16;

/** The shortest time between two looks at the counts of a connection for its rate, in ms. */
export const rateWindowMs = 500;

/** A look is too old after so long, in ms: another one is taken before a rate is returned. */
export const rateStaleMs = 5_000;
