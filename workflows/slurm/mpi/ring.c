/* ring [ROUNDS [BYTES]]: each rank says hello; then a token goes round, to which each adds its number, at the beginning
 * of a message of so many bytes.
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    int rank, size, length;
    int rounds = argc > 1 ? atoi(argv[1]) : 1;
    int count = argc > 2 ? atoi(argv[2]) / (int)sizeof(int) : 1;
    char name[MPI_MAX_PROCESSOR_NAME];

    if (count < 1)
        count = 1;
    int *token = calloc(count, sizeof(int));
    if (token == NULL)
        return 1;

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MPI_Get_processor_name(name, &length);
    printf("hello from rank %d of %d\n", rank, size);
    fflush(stdout);
    MPI_Barrier(MPI_COMM_WORLD);
    double start = MPI_Wtime();
    for (int round = 0; round < rounds && size > 1; round++) {
        if (rank > 0)
            MPI_Recv(token, count, MPI_INT, rank - 1, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        token[0] += rank;
        MPI_Send(token, count, MPI_INT, (rank + 1) % size, 0, MPI_COMM_WORLD);
        if (rank == 0)
            MPI_Recv(token, count, MPI_INT, size - 1, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    }
    if (rank == 0)
        printf("the token is %d after %d rounds, %.1f us each\n", token[0], rounds,
               (MPI_Wtime() - start) * 1e6 / (rounds > 0 ? rounds : 1));
    MPI_Finalize();
    return 0;
}
